"""Tests of models for images and texts with missing inputs, from a table to predictions of the bundle."""

import csv
import json

import numpy as np
import pytest

from tests.helpers.commands import get_error, run_in_process
from tests.helpers.small_data import picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.serve import requests, responses
from tfx_finetune.serve.model_version import ModelVersion

WORDS = {"disc": ("round", "wheel", "coin"), "bar": ("long", "stick", "line"), "box": ("square", "crate", "block")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train on 90 rows: a fifth has no image, another fifth no text, and one row has neither."""
    root = tmp_path_factory.mktemp("multimodal")
    rng = np.random.default_rng(0)
    rows = []
    for row in range(90):
        kind = list(WORDS)[row % 3]
        name = f"{row}.png"
        picture(root / name, row)
        text = " ".join(rng.choice(WORDS[kind], 3))
        uniform = rng.random()
        rows.append({"image": name if uniform > 0.2 else "", "text": text if uniform < 0.8 else "", "label": kind})
    rows.append({"image": "", "text": "", "label": "disc"})
    with (root / "t.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", "text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    flags = [
        f"--data={root / 't.csv'}",
        "--backbone=image=convnet(size=16, channels=3, widths=(4, 8)), text=bag_of_embeddings(size=24, dim=16)",
        "--frozen.epochs=8",
        "--finetune.epochs=0",
        "--exports=saved_model(), tflite(), tflite(quantize='int8')",
        f"--workdir={root / 'run'}",
        "--nocache.enabled",
    ]
    result = run_in_process("train", *flags)
    assert result.returncode == 0, result.stderr
    return root, result.stderr


@pytest.mark.slow
def test_every_subset_of_inputs_is_scored(run):
    """The scores are in scores.json, in the terminal and in the report. Texts show the class, images do not."""
    root, printed = run
    scores = json.loads((root / "run" / "bundle" / "scores.json").read_text())
    ablations = {tuple(ablation["towers"]): ablation for ablation in scores["ablations"]}
    assert list(ablations) == [("image",), ("text",), ("image", "text")]
    both = ablations["image", "text"]
    assert both["label/accuracy"] == pytest.approx(scores["test"]["label/accuracy"])
    assert ablations["text",]["samples"] < both["samples"]
    assert ablations["text",]["label/accuracy"] > 0.9
    assert "image + text" in printed
    assert "1 of 91 samples cannot be read" in printed
    report = (root / "run" / "report.html").read_text()
    assert "has none of image, text" in report
    assert "Modality ablation" in report


@pytest.mark.slow
def test_predictions_with_missing_inputs(run):
    """All files have the same predictions, whichever input is missing; an unknown input name is an error."""
    root, _ = run
    bundle = Bundle.open(root / "run" / "bundle")
    samples = [
        {"image": str(root / "0.png"), "text": "wheel coin round"},
        {"text": "wheel coin round"},
        {"image": str(root / "0.png")},
        {},
        {"image": str(root / "t.csv")},
    ]
    predictions = [bundle.predict(samples, format) for format in ("saved_model", "tflite")]
    for prediction, other in zip(*predictions, strict=True):
        assert prediction["input"] == other["input"]
        if "error" not in prediction:
            assert prediction["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert predictions[0][1]["label"] == "disc"
    assert predictions[0][3]["error"] == "has none of image, text"
    assert predictions[0][4]["error"] == "image: not a JPEG, PNG, GIF, BMP or WebP image"
    argument = json.dumps({"text": "stick line"})
    result = run_in_process("predict", f"--bundle={bundle.path}", argument)
    assert json.loads(result.stdout)["label"] == "bar"
    assert "The model has no such input: sound" in get_error("predict", f"--bundle={bundle.path}", '{"sound": "x"}')
    assert 'such as {"image": "...", "text": "..."}' in get_error("predict", f"--bundle={bundle.path}", "a.png")


@pytest.mark.slow
def test_requests_with_missing_inputs(run):
    """Requests in row format omit the input, requests in column format have null."""
    root, _ = run
    bundle = Bundle.open(root / "run" / "bundle")
    labels = {head: task.labels.names for head, task in bundle.tasks.items()}
    golden = {f"{head}/scores": np.zeros((1, len(names)), np.float32) for head, names in labels.items()}
    version = ModelVersion(
        1, bundle.modalities, labels, {}, {}, golden, bundle.preprocess, bundle.load_model("tflite").predict
    )
    rows, _ = requests.parse_predict_request({"instances": [{"text": "wheel"}, {"text": "line"}]}, version)
    columns, _ = requests.parse_predict_request({"inputs": {"text": ["wheel", "line"], "image": [None, None]}}, version)
    for name, values in rows.items():
        assert np.array_equal(values, columns[name])
    assert rows["modality_mask"].tolist() == [[0, 1], [0, 1]]
    with pytest.raises(requests.RequestError, match="has none of image, text"):
        requests.parse_predict_request({"instances": [{"text": ""}]}, version)
    with pytest.raises(requests.RequestError, match="A sample is an object of named inputs"):
        requests.parse_predict_request({"instances": ["wheel"]}, version)
    inputs = responses.make_metadata("m", version)["metadata"]["signature_def"]["signature_def"]["tensor"]["inputs"]
    assert {name: value["dtype"] for name, value in inputs.items()} == {"image": "DT_FLOAT", "text": "DT_INT32"}


@pytest.mark.slow
def test_rows_with_missing_inputs_are_evaluated(run):
    """`evaluate` uses every row that has at least one input."""
    root, _ = run
    result = run_in_process(
        "evaluate", f"--bundle={root / 'run' / 'bundle'}", f"--data={root / 't.csv'}", "--format=tflite"
    )
    scores = json.loads(result.stdout)
    assert (scores["samples"], scores["skipped"]) == (90, 1)
    assert scores["label/accuracy"] > 0.8


@pytest.mark.slow
def test_two_towers_may_read_one_column(run, tmp_path):
    """Both towers read the text, and each is scored alone; predictions need the text for both."""
    root, _ = run
    towers = "letters=bag_of_embeddings(size=24, dim=8, ngrams=1), groups=bag_of_embeddings(size=24, dim=16)"
    flags = [f"--data={root / 't.csv'}", f"--backbone={towers}", "--fusion=concat()", f"--workdir={tmp_path}"]
    result = run_in_process(
        "train",
        *flags,
        "--frozen.epochs=8",
        "--finetune.epochs=0",
        "--max_unreadable=0.5",
        "--exports=tflite()",
        "--nocache.enabled",
    )
    assert result.returncode == 0, result.stderr
    assert "letters and groups read the same column: text" in result.stderr
    scores = json.loads((tmp_path / "bundle" / "scores.json").read_text())
    assert [ablation["towers"] for ablation in scores["ablations"]] == [["letters"], ["groups"], ["letters", "groups"]]
    assert scores["test"]["label/accuracy"] > 0.9
    (prediction,) = Bundle.open(tmp_path / "bundle").predict([{"letters": "stick line", "groups": "stick line"}])
    assert prediction["label"] == "bar"


@pytest.mark.slow
def test_a_tower_without_a_column_raises_an_error(run):
    """The error comes before training."""
    root, _ = run
    flags = ["--backbone=audio=audio_net(), text=bag_of_embeddings()", f"--workdir={root / 'other'}"]
    error = get_error("train", f"--data={root / 't.csv'}", *flags)
    assert "The data has no column audio: t. Expected: " in error
