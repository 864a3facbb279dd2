"""Reads weights that torch saved, without torch: NumPy and a restricted unpickler.

Both forms are read: the legacy stream (five pickles, then raw storages) and the zip archive. Pickle can run any code
that a file names; this reader knows the three names that tensors need and refuses every other one.
"""

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfx_finetune.core.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a saved state dict, by name.

    Args:
        path: A `.pth` or `.pt` file.

    Raises:
        UserError: It is not such a file, is cut off, or names anything but tensors.
    """
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _RefusedError as error:
        raise UserError("a torch file that is not weights alone", got=f"{path} ({error})") from None
    except Exception as error:
        # A damaged pickle can end in any error.
        raise UserError("not a torch file of weights", got=f"{path} ({str(error) or type(error).__name__})") from None
    return {name: value for name, value in state.items() if isinstance(value, np.ndarray)}


class _RefusedError(Exception):
    """A file names something that tensors do not need."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _Tensor(
                storage, offset, tuple(size), tuple(stride)
            ),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if (module, name) not in allowed:
            raise _RefusedError(f"it names {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, identifier: Any) -> _Storage:
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or any(view):
            raise _RefusedError("storage of an unknown form")
        return self.storages.setdefault(key, _Storage(key, np.dtype(dtype), int(count)))


def _read_legacy(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != 1001:
            raise ValueError("it does not begin as one")
        if not _Unpickler(stream).load().get("little_endian", True):
            raise ValueError("big-endian")
        unpickler = _Unpickler(stream)
        state = unpickler.load()
        buffers = {}
        for key in _Unpickler(stream).load():
            storage = unpickler.storages[key]
            count = int(np.frombuffer(stream.read(8), "<i8")[0])
            if count != storage.size:
                raise ValueError("a storage of another size than stated")
            buffers[key] = np.frombuffer(stream.read(count * storage.dtype.itemsize), storage.dtype, count)
        if stream.read(1):
            raise ValueError("bytes behind the end")
    return {name: _convert_to_array(value, buffers) for name, value in state.items()}


def _read_zip(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "")
        if not name:
            raise ValueError("no data.pkl in it")
        root = name.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        state = unpickler.load()
        buffers = {
            key: np.frombuffer(archive.read(f"{root}data/{key}"), storage.dtype, storage.size)
            for key, storage in unpickler.storages.items()
        }
    return {name: _convert_to_array(value, buffers) for name, value in state.items()}


def _convert_to_array(value: Any, buffers: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, _Tensor):
        return value
    base = buffers[value.storage.key]
    end = value.offset + 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride, strict=True))
    if min((value.offset, *value.stride)) < 0 or (0 not in value.shape and end > base.size):
        raise ValueError("a tensor outside its storage")
    # A stride of 0 repeats a value without end.
    if math.prod(value.shape) > base.size:
        raise ValueError("a tensor larger than its storage")
    strides = [step * base.itemsize for step in value.stride]
    return np.lib.stride_tricks.as_strided(base[value.offset :], value.shape, strides).copy()


def to_keras(tensor: np.ndarray, depthwise: bool) -> np.ndarray:
    """Turns a torch weight into Keras's layout: convolution OIHW -> HWIO, depthwise (C, 1, H, W) -> (H, W, C, 1)."""
    if tensor.ndim == 4:
        return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return tensor.T if tensor.ndim == 2 else tensor
