"""Torch weights files: read without torch, exactly, and without running code."""

import base64
import io
import math
import os
import pickle
import sys
import types
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from tests.helpers.assets import fetch_asset
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import torch_weights

# What torch 2.13 wrote, compressed, for
#   base = torch.arange(12.0)
#   torch.save(OrderedDict(a=base.reshape(3, 4).t(), b=base[2:5], h=torch.tensor([1.5, -2], dtype=torch.float16),
#              n=torch.tensor(7), p=torch.nn.Parameter(torch.ones(2))), file, _use_new_zipfile_serialization=...)
SAVED = {
    "zip": """
c-p0v-%ry}6vywnQAWiv5aox8pn^kTbR94zDA1V3q$a|Q3E^caTVai5-RbV|M`A)khWaK6F+Lgp0$=r!cYW~z5)&Uxd@w%wFL-YYqwO4vaI>?f%l&@Or
+4R^&dL4&Lct)aT4B_N6f=|4*3^-#f|Y3DkuHfLwCGyvOeSOKx|+e7kuP%h&8%vw**jVWbASd@;EOEyh?xRR1{=gJnl52YFLG&9T`FmMHjUMM(J<3%0t
fy`WTBC4E|Q(fiV6W+!b!TJ;0N}P95h&lJg^IXa?KP<&?q-!2+qq$4#@sZXp(($U=z4kISOzJLvspFTcRZh<w%lTAlHy%bC#@SUS?!}8N#x!46U}L4a1
ofv|ExKoV6wUEO!-sxq@=e+7g2f;>BR-qzFtIx~NyT?R6f*g%n)0Hs+zn<#o@<uT;D)Sz83?C0;%ZeZ*^U(Dt~D;YtdwS{n+`U*jMPim9xsST#8qICx4
+5{GLxUu2(ekn&x(y>DO`O2P0;>n8dFMpD3+qH}U%aLf1k!yeJon5$VO9jL!jCDCQWTvc#-O*M<88YHpLQ!M{jF`DY*pYI!#lt%4T-6(OGYQIL(imt8X
SJgb0#CZK|)oXl|0!%-K-wa8?90|~hrYitTPqAvyVwc3p<K#V9x`wf?Qik%apIt1;!XC*GLbqLAIl@cg%@Y9FuItm}YleJCtdn?8Vu!>J5@?pp0usF>_
*qK&<oWV#p7vlJ(snm#OcKLYq~vjSsOR|Z?lv((fjXWuZcjlHr%rPGi;ervl%cTq%b-bvbr`1H3~@=EK*v9SdiLwnH2>>)cDH{17BpGOU+J{OaRK5S&H
VM<%ES8g--Cq12DBc%sG1t-z-J1b{%I{MiP8TAiSdcV#JG?Ul8Iz;Vr(=vE{w(aQGpl6_|YUUBqx&bB%h31U0VL~EkZaV7Nw8ERydv0DqKbGeUEw7&H>
cnQVuYv)_n7tIEP5L%Vf)GQZ>1}KF&eV>hfvxqv`?Vl{>pL<dVPfBhT#cYMou^*3JYx+L%}C>>jsv+p874T4&|EwVe$fZQQGM)^3YS`_`eY^`ALPs>gl
SEUHuNb27^g9khmjxT54d*A2$Leqs+s4QoxE$tL^We(N=`wuZCz+k5{40M;4t
""",
    "legacy": """
c-nQ6%Wl&^6o$u_G+@#a?v!iF)!`CiC&cXrsD!FY1BIH6H^_3Gp*Avhjy<jfQl)HC3eUiTC6CcZVap>RvEYmyML{wn{~pir%=iDE@mT(<MSs3+{BFJf@
p`#4mS6r-@V*a3cbbHdQJV0?Pa=1ZrCFH7AmIdO5#K~1=Mi&RJPf@U<U>cpBL6sIZWexG87TXp>P`)dS&*b0YE*U<9ECB51*$r#U?lM_)Tx^1=;@<P#C
(n}nf59jvXl*<hd$SUv~7@dN5T~z$UaX}Kj^qQ52H+TQ?`?b(a_~A&XUyKGc{0j-Kh&>oayZ{P|GFSMwEE`O<B~S<}BfywZ7Fg`UBH4dX_bSg(9Or$}v
`Bi^H*PN~lVe12|44svdy$B@l5=aA?@DSY+CPr2s7hHK;_M3`$gUo61y~z$q$C;B<*O!{MwA=L$>!=S$2q?WPyKn}xkFM>b8fZ}nGK;Ubb{Brl7Q@&qm
k^5v3zg~L@Ft`+1MuKz=Rf!jVKx8}%(*&RGKjRCA6Swiv+B)8io@g|2`Hry_VBe?UQV;Fg<_knSiYH+t=S9->vzt%HM(5Knk)9m*|_WPyN0}c;u=o}V<
N1vf<gCYKqx8kp?NGnxsj$GxcR2`7YI^vr|t517*+LI^bX!cCTPlXy}zKI%nh8Jp#`i?q6{X~&<LYk-+s=NLdsAbiK
""",
}


def saved(form):
    return zlib.decompress(base64.b85decode("".join(SAVED[form].split())))


def read(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    return torch_weights.read_state_dict(tmp_path / "file.pth")


@pytest.mark.parametrize("form", SAVED)
def test_files_of_torch_are_read(form, tmp_path):
    """Views, offsets, dtypes, scalars and parameters, in both formats of torch."""
    tensors = read(tmp_path, saved(form))
    expected = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "b": np.array([2, 3, 4], np.float32),
        "h": np.array([1.5, -2], np.float16),
        "n": np.array(7),
        "p": np.ones(2, np.float32),
    }
    assert set(tensors) == set(expected)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert np.array_equal(tensors[name], value)
        tensors[name] += 1  # the array is a copy, not a view of the file


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As published: 4.65 million (EfficientNet-Lite0), 3,504,872 (torchvision).
    [("efficientnet-lite0", 4_652_008), ("torchvision-mobilenet-v2", 3_504_872)],
)
def test_published_weights_are_read(name, parameters):
    """Every parameter of the published networks is read, and none is zero."""
    tensors = torch_weights.read_state_dict(next(fetch_asset(name).glob("*.pth")))
    learned = [value for key, value in tensors.items() if key.endswith(("weight", "bias"))]
    assert sum(value.size for value in learned) == parameters
    assert all(np.isfinite(value).all() and np.abs(value).max() > 0 for value in learned)


@pytest.mark.parametrize("form", SAVED)
def test_every_truncated_file_is_refused(form, tmp_path):
    """An interrupted download ends in a UserError."""
    content = saved(form)
    for length in (*range(0, len(content), 7), len(content) - 1):
        with pytest.raises(UserError, match="The torch file cannot be read: "):
            read(tmp_path, content[:length])


@pytest.mark.parametrize("form", SAVED)
def test_damaged_files_raise_no_other_error(form, tmp_path):
    """A changed byte gives other numbers or a UserError."""
    rng = np.random.default_rng(0)
    for _ in range(600):
        content = bytearray(saved(form))
        content[rng.integers(len(content))] = rng.integers(256)
        try:
            read(tmp_path, bytes(content))
        except UserError as error:
            assert "torch file" in str(error)


class Call:
    """Object that is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def as_zip(payload, name="data.pkl", byteorder=b"little"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"archive/{name}", payload)
        archive.writestr("archive/byteorder", byteorder)
    return stream.getvalue()


def as_legacy(payload):
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2)


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function",
    [os.system, eval, os.mkdir, __import__("subprocess").run, getattr, __import__("importlib").import_module],
)
def test_a_file_that_refers_to_a_function_is_refused(function, protocol, wrap, tmp_path):
    """The error names the function, which does not run."""
    mark = tmp_path / "ran"
    commands = {os.mkdir: (str(mark),), eval: (f"__import__('os').mkdir({str(mark)!r})",)}
    content = wrap(pickle.dumps({"weight": Call(function, *commands.get(function, (f"mkdir {mark}",)))}, protocol))
    with pytest.raises(UserError, match=r"The torch file contains more than weights: .* \(it refers to \S+\)"):
        read(tmp_path, content)
    assert not mark.exists()


def test_a_dotted_name_is_refused(tmp_path):
    """Protocol 4 resolves `a.b` inside a module, so a valid module does not make a dotted name valid."""
    for module, name in (("collections", "OrderedDict.fromkeys"), ("torch._utils", "os.system"), ("torch", "load")):
        payload = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93."
        with pytest.raises(UserError, match=f"it refers to {module}.{name}"):
            read(tmp_path, as_zip(payload))


@pytest.fixture
def stand_in(monkeypatch):
    """Replace torch for pickling, and return a function that writes a tensor of any offset, shape and stride."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = type("_rebuild_tensor_v2", (), {"__module__": "torch._utils"})
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Storage:
        def __init__(self, count):
            self.count = count

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", value.count) if isinstance(value, Storage) else None

    def content(offset, shape, stride, count=6):
        stream = io.BytesIO()
        tensor = Call(utils._rebuild_tensor_v2, Storage(count), offset, shape, stride, False, OrderedDict())
        Pickler(stream, 2).dump({"weight": tensor})
        archive = io.BytesIO(as_zip(stream.getvalue()))
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("archive/data/0", np.arange(6, dtype="<f4").tobytes())
        return archive.getvalue()

    return content


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (7,), (0,)),
        (0, (1 << 40,), (1 << 40,)),
        (1 << 70, (1,), (1,)),
        (0, (2,), (1, 1)),
        ("0", (2,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(stand_in, offset, shape, stride, tmp_path):
    """No memory outside the file is read."""
    assert np.array_equal(read(tmp_path, stand_in(1, (2, 2), (1, 2)))["weight"], [[1, 3], [2, 4]])
    with pytest.raises(UserError, match="The torch file cannot be read: "):
        read(tmp_path, stand_in(offset, shape, stride))


def test_a_truncated_storage_is_refused(stand_in, tmp_path):
    """The number of values is checked against the number of bytes."""
    with pytest.raises(UserError, match="The torch file cannot be read: "):
        read(tmp_path, stand_in(0, (2,), (1,), count=7))


def test_files_that_are_not_a_state_dict_are_refused(tmp_path):
    """Such as a list, a number, big-endian data, another zip file and a missing file."""
    for value in ([1, 2], 3, None):
        with pytest.raises(UserError, match="The torch file cannot be read"):
            read(tmp_path, as_zip(pickle.dumps(value)))
    with pytest.raises(UserError, match="big-endian"):
        read(tmp_path, as_zip(pickle.dumps({}), byteorder=b"big"))
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read(tmp_path, as_zip(b"", name="config.json"))
    with pytest.raises(UserError, match="No such file"):
        torch_weights.read_state_dict(tmp_path / "missing.pth")


def test_kernels_are_transposed():
    """OIHW convolution, (C, 1, H, W) depthwise and (out, in) dense kernels, against correlations by hand."""
    rng = np.random.default_rng(0)
    kernel, pixels = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=(2, 2, 3))
    by_hand = [sum(kernel[o, i, y, x] * pixels[y, x, i] for i, y, x in np.ndindex(3, 2, 2)) for o in range(4)]
    assert np.allclose(np.einsum("hwi,hwio->o", pixels, torch_weights.to_keras(kernel, depthwise=False)), by_hand)
    kernel = rng.normal(size=(3, 1, 2, 2))
    by_hand = [sum(kernel[c, 0, y, x] * pixels[y, x, c] for y, x in np.ndindex(2, 2)) for c in range(3)]
    assert np.allclose(np.einsum("hwc,hwcm->c", pixels, torch_weights.to_keras(kernel, depthwise=True)), by_hand)
    dense = rng.normal(size=(5, 3))
    assert np.allclose(pixels[0, 0] @ torch_weights.to_keras(dense, depthwise=False), dense @ pixels[0, 0])
    assert math.prod(torch_weights.to_keras(np.zeros(7), depthwise=False).shape) == 7
