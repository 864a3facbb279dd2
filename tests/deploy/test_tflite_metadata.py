"""TFLite metadata: found by the public schema's places, with the labels in a zip archive behind the model."""

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
    """A small file of two heads."""
    model, path = small({"kind": "classify()", "marks": "tag()"}), tmp_path_factory.mktemp("metadata") / "model.tflite"
    EXPORTS.build(parse_spec("tflite(quantize='int8')")).write(model.servable, path)
    return path


def test_a_file_says_what_it_is(file):
    """Names, labels of every output, author left out where there is none."""
    found = tflite_metadata.read_metadata(file.read_bytes())
    assert found == {name: text for name, text in ABOUT.items() if text} | {
        "inputs": ["image"],
        "outputs": ["kind", "marks"],
        "labels": {"kind": list(NAMES), "marks": list(NAMES)},
    }
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        assert archive.namelist() == ["labels.txt", "labels.marks.txt"]


def test_the_buffer_is_of_the_schema():
    """Bytes of a small table written by hand: root offset, identifier, and a text of its first field."""
    packed = tflite_metadata._encode(("ab",))
    assert packed[4:8] == b"M001"
    root = int.from_bytes(packed[:4], "little")
    vtable = root - int.from_bytes(packed[root : root + 4], "little", signed=True)
    assert packed[vtable : vtable + 2] == (6).to_bytes(2, "little"), "a vtable of one field"
    field = root + int.from_bytes(packed[vtable + 4 : vtable + 6], "little")
    text = field + int.from_bytes(packed[field : field + 4], "little")
    assert packed[text : text + 7] == b"\2\0\0\0ab\0"


def test_the_same_model_gives_the_same_file(file, tmp_path):
    """Archives would have the time of their making in them."""
    content = file.read_bytes()
    plain = content[: content.index(b"PK\3\4")]
    twice = [
        tflite_metadata.add_metadata(plain, ABOUT, {"image": 3}, {"kind": NAMES, "marks": NAMES}) for _ in range(2)
    ]
    assert twice[0] == twice[1]


def test_inspect_prints_it(file, trained_run):
    """A JSON line a file; a bundle's files have it too; what is no TFLite file is named."""
    found = run_in_process("inspect", file, trained_run.workdir / "bundle" / "model.tflite")
    assert found.returncode == 0, found.stderr
    first, second = map(json.loads, found.stdout.splitlines())
    assert first["metadata"]["license"] == "Apache-2.0"
    assert "uint8 [1, 16, 16, 3]" in first["inputs"][0]
    assert second["metadata"]["labels"]["label"] == ["bar", "disc", "square"]
    assert second["metadata"]["name"] == trained_run.workdir.name
    assert "not a TFLite file" in get_error("inspect", trained_run.workdir / "bundle" / "labels.txt")


def test_a_file_without_metadata_says_nothing():
    """Files of other tools are read as well."""
    import tensorflow as tf

    function = tf.function(lambda x: x * 2.0).get_concrete_function(tf.TensorSpec([1, 3], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    assert tflite_metadata.read_metadata(content) == {}
    assert np.frombuffer(content[4:8], np.uint8).tobytes() == b"TFL3"
