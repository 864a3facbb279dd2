"""Pictures and texts of one thing, with gaps, from a table to a bundle that answers with whatever it is given."""

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
    """A small run on 90 rows; a fifth of them has no picture, another no text, and one has neither."""
    root = tmp_path_factory.mktemp("multimodal")
    rng = np.random.default_rng(0)
    rows = []
    for row in range(90):
        kind = list(WORDS)[row % 3]
        name = f"{row}.png"
        picture(root / name, row)
        text = " ".join(rng.choice(WORDS[kind], 3))
        gap = rng.random()
        rows.append({"image": name if gap > 0.2 else "", "text": text if gap < 0.8 else "", "label": kind})
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
    found = run_in_process("train", *flags)
    assert found.returncode == 0, found.stderr
    return root, found.stderr


@pytest.mark.slow
def test_every_subset_is_scored(run):
    """In scores.json, in the terminal and in the report; the text tells the classes, the picture does not."""
    root, said = run
    scores = json.loads((root / "run" / "bundle" / "scores.json").read_text())
    subsets = {tuple(part["towers"]): part for part in scores["ablations"]}
    assert list(subsets) == [("image",), ("text",), ("image", "text")]
    both = subsets["image", "text"]
    assert both["label/accuracy"] == pytest.approx(scores["test"]["label/accuracy"])
    assert subsets["text",]["samples"] < both["samples"]
    assert subsets["text",]["label/accuracy"] > 0.9
    assert "image + text" in said
    assert "1 of 91 samples cannot be read" in said
    report = (root / "run" / "report.html").read_text()
    assert "has none of image, text" in report
    assert "Modality ablation" in report


@pytest.mark.slow
def test_it_answers_with_what_it_is_given(run):
    """Files agree with one another whichever part is missing; a name that there is not is said."""
    root, _ = run
    bundle = Bundle.open(root / "run" / "bundle")
    given = [
        {"image": str(root / "0.png"), "text": "wheel coin round"},
        {"text": "wheel coin round"},
        {"image": str(root / "0.png")},
        {},
        {"image": str(root / "t.csv")},
    ]
    each = [bundle.predict(given, format) for format in ("saved_model", "tflite")]
    for one, other in zip(*each, strict=True):
        assert one["input"] == other["input"]
        if "error" not in one:
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert each[0][1]["label"] == "disc"
    assert each[0][3]["error"] == "has none of image, text"
    assert each[0][4]["error"] == "image: not a JPEG, PNG, GIF, BMP or WebP image"
    argument = json.dumps({"text": "stick line"})
    found = run_in_process("predict", f"--bundle={bundle.path}", argument)
    assert json.loads(found.stdout)["label"] == "bar"
    assert "the model has no such input; received: sound" in get_error(
        "predict", f"--bundle={bundle.path}", '{"sound": "x"}'
    )
    assert 'such as {"image": "...", "text": "..."}' in get_error("predict", f"--bundle={bundle.path}", "a.png")


@pytest.mark.slow
def test_requests_go_without_some_inputs(run):
    """Row by row and column by column; text as it is, null for what is not there."""
    root, _ = run
    bundle = Bundle.open(root / "run" / "bundle")
    labels = {head: task.labels.names for head, task in bundle.tasks.items()}
    golden = {f"{head}/scores": np.zeros((1, len(names)), np.float32) for head, names in labels.items()}
    served = ModelVersion(
        1, bundle.modalities, labels, {}, {}, golden, bundle.preprocess, bundle.load_model("tflite").predict
    )
    rows, _ = requests.parse_predict_request({"instances": [{"text": "wheel"}, {"text": "line"}]}, served)
    columns, _ = requests.parse_predict_request({"inputs": {"text": ["wheel", "line"], "image": [None, None]}}, served)
    for name, values in rows.items():
        assert np.array_equal(values, columns[name])
    assert rows["modality_mask"].tolist() == [[0, 1], [0, 1]]
    with pytest.raises(requests.RequestError, match="has none of image, text"):
        requests.parse_predict_request({"instances": [{"text": ""}]}, served)
    with pytest.raises(requests.RequestError, match="A sample is an object of named inputs"):
        requests.parse_predict_request({"instances": ["wheel"]}, served)
    known = responses.make_metadata("m", served)["metadata"]["signature_def"]["signature_def"]["tensor"]["inputs"]
    assert {name: value["dtype"] for name, value in known.items()} == {"image": "DT_FLOAT", "text": "DT_INT32"}


@pytest.mark.slow
def test_labelled_data_with_gaps_is_evaluated(run):
    """By the command, on every row that has something."""
    root, _ = run
    found = run_in_process(
        "evaluate", f"--bundle={root / 'run' / 'bundle'}", f"--data={root / 't.csv'}", "--format=tflite"
    )
    scores = json.loads(found.stdout)
    assert (scores["samples"], scores["skipped"]) == (90, 1)
    assert scores["label/accuracy"] > 0.8


@pytest.mark.slow
def test_two_towers_of_one_column(run, tmp_path):
    """Both read the text, and each is scored alone; who asks the bundle gives it to both."""
    root, _ = run
    towers = "letters=bag_of_embeddings(size=24, dim=8, ngrams=1), groups=bag_of_embeddings(size=24, dim=16)"
    flags = [f"--data={root / 't.csv'}", f"--backbone={towers}", "--fusion=concat()", f"--workdir={tmp_path}"]
    found = run_in_process(
        "train",
        *flags,
        "--frozen.epochs=8",
        "--finetune.epochs=0",
        "--max_unreadable=0.5",
        "--exports=tflite()",
        "--nocache.enabled",
    )
    assert found.returncode == 0, found.stderr
    assert "letters and groups read the same column: text" in found.stderr
    scores = json.loads((tmp_path / "bundle" / "scores.json").read_text())
    assert [part["towers"] for part in scores["ablations"]] == [["letters"], ["groups"], ["letters", "groups"]]
    assert scores["test"]["label/accuracy"] > 0.9
    (answer,) = Bundle.open(tmp_path / "bundle").predict([{"letters": "stick line", "groups": "stick line"}])
    assert answer["label"] == "bar"


@pytest.mark.slow
def test_a_tower_for_what_the_data_lacks(run):
    """Is said before training."""
    root, _ = run
    flags = ["--backbone=audio=audio_net(), text=bag_of_embeddings()", f"--workdir={root / 'other'}"]
    said = get_error("train", f"--data={root / 't.csv'}", *flags)
    assert "the data has no audio for a tower; received: t; allowed: " in said
