"""Heads by language: training samples, selection of the head, and errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import get_error, run_in_process
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.evaluation.intervals import paired_interval
from tfx_finetune.evaluation.scores import evaluate, mask_labeled
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels

WORDS = {"en": ("dog cat cow", "red blue pink"), "fi": ("koira kissa lehmä", "punainen sini pinkki")}
"""Words of two classes by language; the language `xx` below has the classes of English exchanged."""
SMALL = (
    "--nocache.enabled",
    "--backbone=bag_of_embeddings(size=24, dim=16)",
    "--finetune.epochs=0",
    "--frozen.learning_rate=0.03",
)


def table(path: Path, words_by_language: dict[str, tuple[str, str]], count: int = 40) -> Path:
    """Write a table of texts of two words with their language."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label", "language"])
        writer.writeheader()
        for language, word_lists in words_by_language.items():
            for row in range(2 * count):
                words = " ".join(rng.choice(word_lists[row % 2].split(), 2))
                label = ("animal", "colour")[row % 2]
                writer.writerow({"text": f"{words} {language} {row}", "label": label, "language": language})
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Train heads for three languages; one language contradicts another."""
    root = tmp_path_factory.mktemp("routing")
    data = table(root / "t.csv", WORDS | {"xx": WORDS["en"][::-1]})
    flags = (
        f"--data={data}",
        "--heads=classify(l2_to_shared=0.0001)",
        "--heads_by=language",
        f"--workdir={root / 'run'}",
    )
    process = run_in_process(
        "train", *flags, *SMALL, "--frozen.epochs=10", "--exports=keras_file(), saved_model(), tflite()"
    )
    assert process.returncode == 0, process.stderr
    return Bundle.open(root / "run" / "bundle")


@pytest.mark.slow
def test_each_language_has_its_own_head(bundle):
    """The head of a language is scored on samples of this language only."""
    scores = json.loads((bundle.path / "scores.json").read_text())["test"]
    assert min(scores[f"{language}/accuracy"] for language in ("en", "fi", "xx")) > 0.9
    assert scores["shared/accuracy[fi]"] > 0.9
    assert scores["en/per_class"]["animal"]["support"] < scores["shared/per_class"]["animal"]["support"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["keras", "saved_model", "tflite"])
def test_the_language_selects_the_head(bundle, format):
    """The language comes from the sample, from a flag, or from the model's prediction."""
    first, second, third = bundle.predict(
        [{"text": "dog cat en 1", "language": "xx"}, {"text": "dog cat en 1"}, {"text": "koira kissa fi 2"}],
        format,
    )
    assert (first["language"], first["label"]) == ("xx", "colour")
    assert (second["language"], second["label"]) == ("en", "animal")
    assert (third["language"], third["label"]) == ("fi", "animal")
    (record,) = bundle.predict([{"text": "dog cat en 1"}], format, language="xx")
    assert record["label"] == "colour"
    (unknown,) = bundle.predict([{"text": "koira kissa fi 1"}], format, language="sv")
    assert (unknown["language"], unknown["label"]) == ("sv", "animal"), "the shared head answers"


@pytest.mark.slow
def test_signatures_and_outputs(bundle):
    """The SavedModel has a signature per language, and the TFLite file has the outputs of all heads."""
    loaded = tf.saved_model.load(str(bundle.get_path("saved_model")))
    assert {"en", "fi", "xx", "serving_default", "tensor"} <= set(loaded.signatures)
    predictions = loaded.signatures["xx"](text=tf.constant(["dog cat en 1"]))
    assert set(predictions) == {"xx/scores", "xx/labels", "xx/best"}
    assert predictions["xx/best"].numpy() == [b"colour"]
    outputs = bundle.load_model("tflite").predict(bundle.preprocess({"text": b"dog cat en 1"}))
    assert set(outputs) == {f"{head}/scores" for head in ("shared", "language", "en", "fi", "xx")}


@pytest.mark.slow
def test_the_report_has_a_row_per_language(bundle):
    """The report compares the head of each language with the shared head."""
    page = (bundle.path.parent / "report.html").read_text()
    assert "Languages and sources" in page
    assert "language head accuracy" in page


@pytest.mark.slow
def test_evaluate_by_language(bundle, tmp_path):
    """`evaluate` scores each head on samples of its language."""
    data = table(tmp_path / "t.csv", {"fi": WORDS["fi"], "xx": WORDS["en"][::-1]}, count=10)
    process = run_in_process("evaluate", f"--bundle={bundle.path}", f"--data={data}")
    scores = json.loads(process.stdout)
    assert scores["xx/accuracy"] > 0.9
    assert "en/accuracy" not in scores
    assert "shared/accuracy[fi]" in scores


@pytest.mark.slow
def test_named_heads_have_separate_classes(tmp_path):
    """A head has the classes of its language, and the head `shared` has all classes."""
    rows = {"en": ("dog cat cow", "red blue pink"), "fi": ("koira kissa lehmä", "punainen sini pinkki")}
    data = table(tmp_path / "t.csv", rows)
    text = data.read_text().replace("animal,fi", "eläin,fi").replace("colour,fi", "väri,fi")
    data.write_text(text)
    heads = "--heads=en=classify(), fi=classify(), shared=classify()"
    flags = (f"--data={data}", "--heads_by=language", heads, f"--workdir={tmp_path / 'run'}", "--exports=keras_file()")
    assert run_in_process("train", *flags, *SMALL, "--frozen.epochs=2").returncode == 0
    tasks = Bundle.open(tmp_path / "run" / "bundle").tasks
    assert {head: task.labels.names for head, task in tasks.items()} == {
        "en": ("animal", "colour"),
        "fi": ("eläin", "väri"),
        "shared": ("animal", "colour", "eläin", "väri"),
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--heads_by=language", "--heads=en=classify(), sv=classify()"],
            "--heads has a head for a language without data: sv",
        ),
        (["--heads_by=language", "--heads=en=classify()"], "80 of 160 samples have a language without a head"),
        (["--heads_by=country", "--heads=en=classify()"], "no such column"),
        (["--heads_by=language", "--heads=classify(l2_to_shared=-1)"], "out of range"),
        (["--heads=a=classify(heads_by='language'), b=classify()"], "is set by --heads_by"),
        (["--heads=classify(heads_by='language')", "--heads_by=source"], "is set by --heads_by"),
    ],
)
def test_invalid_heads_are_refused(tmp_path, flags, message):
    """An invalid combination of heads and data ends with one line."""
    data = table(tmp_path / "t.csv", WORDS)
    assert message in get_error("train", f"--data={data}", *SMALL, *flags, f"--workdir={tmp_path / 'run'}")


def test_a_head_named_after_a_column_needs_all_labels(tmp_path):
    """Without --heads_by, a head with the name of a column skips no samples."""
    data = table(tmp_path / "t.csv", WORDS | {"": ("ax bx", "cx dx")}, count=20)
    heads = "--heads=label=classify(), language=classify(column='language')"
    error = get_error("train", f"--data={data}", *SMALL, heads, f"--workdir={tmp_path / 'run'}")
    assert "A sample has no label" in error


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "shared"])
def test_samples_without_a_head(tmp_path, policy):
    """Samples without a head are left out, or train only the shared head."""
    data = table(tmp_path / "t.csv", WORDS | {"": ("ax bx", "cx dx")}, count=20)
    flags = (
        "--heads=classify()",
        "--heads_by=language",
        f"--unknown_group={policy}",
        "--max_unreadable=0.5",
        "--exports=keras_file()",
    )
    process = run_in_process(
        "train", f"--data={data}", *SMALL, "--frozen.epochs=1", *flags, f"--workdir={tmp_path / 'run'}"
    )
    assert process.returncode == 0, process.stderr
    assert "40 of 120 samples have a language without a head" in process.stderr


def test_scores_of_labeled_samples_only():
    """By hand: two of four samples have a label, and one of them is correct."""
    task = TASKS.build(parse_spec("classify(heads_by='language')"), ClassLabels(("a", "b"), (1, 1), 2))
    targets = {"en": np.array([[1, 0], [0, 0], [0, 1], [0, 0]], np.float32)}
    outputs = {"en/scores": np.array([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], np.float32)}
    assert mask_labeled(task, targets["en"]).tolist() == [True, False, True, False]
    scores = evaluate({"en": task}, targets, outputs)
    assert scores["en/accuracy"] == 0.5
    assert scores["en/confusion"] == [[1, 0], [1, 0]]
    other = {"en/scores": outputs["en/scores"][:, ::-1]}
    low, high = paired_interval({"en": task}, targets, outputs, other)
    assert np.isfinite([low, high]).all()


def test_slices_are_scored():
    """By hand: three samples, scored for each language."""
    task = TASKS.build(parse_spec("classify()"), ClassLabels(("a", "b"), (1, 1), 2))
    targets = {"label": np.eye(2, dtype=np.float32)[[0, 0, 1]]}
    outputs = {"label/scores": np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)}
    slice_masks = {"en": np.array([True, True, False]), "fi": np.array([False, False, True])}
    scores = evaluate({"label": task}, targets, outputs, slice_masks)
    assert (scores["label/accuracy[en]"], scores["label/accuracy[fi]"]) == (0.5, 1.0)
