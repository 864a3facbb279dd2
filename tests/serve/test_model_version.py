"""What is decided before a request is served: which file answers, whose head it is, and what cannot be served."""

import dataclasses
import socket

import numpy as np
import pytest

from tests.helpers.commands import refused
from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.serve import rest
from tfx_finetune.serve.__main__ import _listen
from tfx_finetune.serve.model_version import ModelVersion, _select_fastest
from tfx_finetune.types.components import MODALITIES, PretrainedCfg


def test_what_cannot_be_served_ends_in_one_line(tmp_path):
    """No bundle there; a port that is taken."""
    assert "nothing to serve" in refused("serve", f"--bundle={tmp_path}", "--port=0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen there"):
        _listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("engine", "formats", "quickest"),
    [
        ("litert", ["keras", "saved_model", "tflite", "tflite_int8"], "tflite"),
        ("litert", ["keras", "saved_model", "tflite_int8"], "saved_model"),
        ("keras", ["keras", "saved_model", "tflite"], "saved_model"),
        ("keras", ["tflite", "keras"], "keras"),
        ("litert", ["tflite_int8", "keras"], "tflite_int8"),
        ("keras", ["tflite_float16"], "tflite_float16"),
    ],
)
def test_the_quickest_whole_file_answers(engine, formats, quickest, monkeypatch):
    """LiteRT on a CPU, TensorFlow on a GPU; without either, the first file that there is."""
    found = dataclasses.replace(hardware.detect(), engine=engine)
    monkeypatch.setattr(hardware, "detect", lambda: found)
    assert _select_fastest(formats) == quickest


@pytest.fixture
def two_heads():
    """Who answers for two heads."""
    labels = {"kind": ("a", "b"), "mark": ("c", "d")}
    modalities = {"image": MODALITIES.build(parse_spec("image"), PretrainedCfg(size=2))}
    golden = {f"{head}/scores": np.eye(2, dtype=np.float32) for head in labels}
    return ModelVersion(
        1, modalities, labels, {}, {}, golden, lambda raw: {"image": np.zeros((1, 2, 2, 3), np.uint8)}, dict
    )


def test_a_classification_names_its_head_where_there_are_several(two_heads):
    """By signature_name."""
    examples = [{"image": {"b64": ""}}]
    with pytest.raises(rest.RequestError, match="kind"):
        rest.parse_classify_request({"examples": examples}, two_heads)
    samples, answer = rest.parse_classify_request({"examples": examples, "signature_name": "mark"}, two_heads)
    assert samples["image"].shape == (1, 2, 2, 3)
    scores = {"kind/scores": np.array([[0.75, 0.25]]), "mark/scores": np.array([[0.25, 0.75]])}
    assert answer(scores) == {"result": [[["d", 0.75], ["c", 0.25]]]}


def test_several_outputs_have_names_and_rows(two_heads):
    """As in TensorFlow Serving: only a single output goes without its name."""
    message = {"signature_name": "tensor", "instances": np.zeros((2, 2, 2, 3)).tolist()}
    _, answer = rest.parse_predict_request(message, two_heads)
    scores = {"kind/scores": np.eye(2), "mark/scores": np.eye(2)[::-1]}
    rows = answer(scores)["predictions"]
    assert [sorted(row) for row in rows] == [["kind/scores", "mark/scores"]] * 2
    assert rows[0]["mark/scores"].tolist() == [0, 1]
