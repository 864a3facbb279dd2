"""Selection of the file and the head that answer, and bundles that cannot be served."""

import dataclasses
import socket

import numpy as np
import pytest

from tests.helpers.commands import get_error
from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.serve.__main__ import _listen
from tfx_finetune.serve.model_version import ModelVersion, _select_fastest
from tfx_finetune.serve.requests import RequestError, parse_classify_request, parse_predict_request
from tfx_finetune.types.components import MODALITIES, PretrainedCfg


def test_missing_bundle_and_port_in_use_are_user_errors(tmp_path):
    """The command prints one line."""
    assert "The folder contains no bundle" in get_error("serve", f"--bundle={tmp_path}", "--port=0")
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UserError, match="Cannot listen on"):
        _listen("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("engine", "formats", "fastest"),
    [
        ("litert", ["keras", "saved_model", "tflite", "tflite_int8"], "tflite"),
        ("litert", ["keras", "saved_model", "tflite_int8"], "saved_model"),
        ("keras", ["keras", "saved_model", "tflite"], "saved_model"),
        ("keras", ["tflite", "keras"], "keras"),
        ("litert", ["tflite_int8", "keras"], "tflite_int8"),
        ("keras", ["tflite_float16"], "tflite_float16"),
    ],
)
def test_fastest_float_file_is_selected(engine, formats, fastest, monkeypatch):
    """LiteRT on a CPU, TensorFlow on a GPU, otherwise the first file."""
    machine = dataclasses.replace(hardware.detect(), engine=engine)
    monkeypatch.setattr(hardware, "detect", lambda: machine)
    assert _select_fastest(formats) == fastest


@pytest.fixture
def two_heads():
    """A model version with two heads."""
    labels = {"kind": ("a", "b"), "mark": ("c", "d")}
    modalities = {"image": MODALITIES.build(parse_spec("image"), PretrainedCfg(size=2))}
    example_outputs = {f"{head}/scores": np.eye(2, dtype=np.float32) for head in labels}
    return ModelVersion(
        1, modalities, labels, {}, {}, example_outputs, lambda raw: {"image": np.zeros((1, 2, 2, 3), np.uint8)}, dict
    )


def test_classify_request_selects_a_head_by_signature_name(two_heads):
    """A model with several heads requires signature_name."""
    examples = [{"image": {"b64": ""}}]
    with pytest.raises(RequestError, match="kind"):
        parse_classify_request({"examples": examples}, two_heads)
    inputs, make_response = parse_classify_request({"examples": examples, "signature_name": "mark"}, two_heads)
    assert inputs["image"].shape == (1, 2, 2, 3)
    scores = {"kind/scores": np.array([[0.75, 0.25]]), "mark/scores": np.array([[0.25, 0.75]])}
    assert make_response(scores) == {"result": [[["d", 0.75], ["c", 0.25]]]}


def test_predictions_with_several_outputs_are_objects(two_heads):
    """Only a single output has no name, as in TensorFlow Serving."""
    message = {"signature_name": "tensor", "instances": np.zeros((2, 2, 2, 3)).tolist()}
    _, make_response = parse_predict_request(message, two_heads)
    scores = {"kind/scores": np.eye(2), "mark/scores": np.eye(2)[::-1]}
    rows = make_response(scores)["predictions"]
    assert [sorted(row) for row in rows] == [["kind/scores", "mark/scores"]] * 2
    assert rows[0]["mark/scores"].tolist() == [0, 1]
