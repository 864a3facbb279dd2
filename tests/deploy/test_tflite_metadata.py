"""TFLite metadata and label files in exported files."""

import io
import json
import zipfile

import numpy as np
import pytest

from tests.helpers.commands import get_error, run_in_process
from tests.helpers.small_model import ABOUT, NAMES, small
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.formats import tflite_metadata
from tfx_finetune.types.components import EXPORTS


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return a small int8 file with two heads."""
    model, path = small({"kind": "classify()", "marks": "tag()"}), tmp_path_factory.mktemp("metadata") / "model.tflite"
    EXPORTS.build(parse_spec("tflite(quantize='int8')")).write(model.servable, path)
    return path


def test_read_metadata(file):
    """Metadata has names, labels and texts; empty texts are left out."""
    metadata = tflite_metadata.read_metadata(file.read_bytes())
    assert metadata == {name: text for name, text in ABOUT.items() if text} | {
        "inputs": ["image"],
        "outputs": ["kind", "marks"],
        "labels": {"kind": list(NAMES), "marks": list(NAMES)},
    }
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        assert archive.namelist() == ["labels.txt", "labels.marks.txt"]


def test_encoding_follows_the_schema():
    """The flat buffer of a small table has the bytes of the schema."""
    packed = tflite_metadata._encode(("ab",))
    assert packed[4:8] == b"M001"
    root = int.from_bytes(packed[:4], "little")
    vtable = root - int.from_bytes(packed[root : root + 4], "little", signed=True)
    assert packed[vtable : vtable + 2] == (6).to_bytes(2, "little"), "a vtable of one field"
    field = root + int.from_bytes(packed[vtable + 4 : vtable + 6], "little")
    text = field + int.from_bytes(packed[field : field + 4], "little")
    assert packed[text : text + 7] == b"\2\0\0\0ab\0"


def test_the_same_model_gives_the_same_file(file, tmp_path):
    """Writing metadata twice gives the same bytes, without the time of day."""
    content = file.read_bytes()
    plain = content[: content.index(b"PK\3\4")]
    twice = [
        tflite_metadata.add_metadata(plain, ABOUT, {"image": 3}, {"kind": NAMES, "marks": NAMES}) for _ in range(2)
    ]
    assert twice[0] == twice[1]


def test_inspect_prints_metadata(file, trained_run):
    """`inspect` prints one JSON line per TFLite file and refuses other files."""
    process = run_in_process("inspect", file, trained_run.workdir / "bundle" / "model.tflite")
    assert process.returncode == 0, process.stderr
    first, second = map(json.loads, process.stdout.splitlines())
    assert first["metadata"]["license"] == "Apache-2.0"
    assert "uint8 [1, 16, 16, 3]" in first["inputs"][0]
    assert second["metadata"]["labels"]["label"] == ["bar", "disc", "square"]
    assert second["metadata"]["name"] == trained_run.workdir.name
    assert "not a TFLite file" in get_error("inspect", trained_run.workdir / "bundle" / "labels.txt")


def test_a_file_without_metadata():
    """The metadata of a file of another program is empty."""
    import tensorflow as tf

    function = tf.function(lambda x: x * 2.0).get_concrete_function(tf.TensorSpec([1, 3], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    assert tflite_metadata.read_metadata(content) == {}
    assert np.frombuffer(content[4:8], np.uint8).tobytes() == b"TFL3"
