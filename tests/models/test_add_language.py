"""Adding a language to a bundle with heads by language, whose existing weights stay unchanged."""

import json

import numpy as np
import pytest

from tests.helpers.commands import check_errors_before_writing, get_error, run_in_process
from tests.tasks.test_routing import SMALL, WORDS, table
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.models.backbones.bundle import load_keras_file

HU = {"hu": ("kutya macska tehén", "piros kék rózsaszín")}
SV = {"sv": ("hund katt ko", "röd blå rosa")}
EXPORTS = "--exports=keras_file(), tflite()"
KERAS = "--exports=keras_file()"


def train(folder, data, *flags):
    result = run_in_process(
        "train", f"--data={data}", *SMALL, "--frozen.epochs=10", EXPORTS, *flags, f"--workdir={folder}"
    )
    assert result.returncode == 0, result.stderr
    return Bundle.open(folder / "bundle"), result.stderr


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Train a bundle with heads for two languages and head adapters."""
    root = tmp_path_factory.mktemp("growing")
    heads = ("--heads=classify(l2_to_shared=0.0001, adapter_dim=4)", "--heads_by=language")
    return train(root / "run", table(root / "t.csv", WORDS), *heads)[0]


def outputs(bundle, format):
    """Return the outputs of a file for some texts, by name."""
    predict = bundle.load_model(format).predict
    texts = ("dog cat en 1", "red blue en 2", "koira kissa fi 3", "kutya piros hu 4", "x")
    rows = [predict(bundle.preprocess({"text": text.encode()})) for text in texts]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def weights(bundle):
    """Return the weights of each head, in the order of its layers, and of the tower."""
    model, layer_names = load_keras_file(bundle.path, bundle.manifest), bundle.manifest["layer_names"]
    layers_by_part = layer_names["heads"] | {"tower": layer_names["towers"]["text"]["layers"]}
    return {
        name: [value for layer in layers for value in model.get_layer(layer).get_weights()]
        for name, layers in layers_by_part.items()
    }


def are_equal(weights, other_weights):
    return all(np.array_equal(*pair) for pair in zip(weights, other_weights, strict=True))


@pytest.fixture(scope="module")
def extended(old, tmp_path_factory):
    """Add Hungarian, with data of the old languages too."""
    root = tmp_path_factory.mktemp("extended")
    data = table(root / "t.csv", WORDS | HU)
    return train(root / "run", data, f"--init={old.path}", "--add_language=hu")[0]


@pytest.mark.slow
def test_existing_weights_stay_unchanged(old, extended):
    """Weights and outputs of the tower and all existing heads are equal to the last bit."""
    before, after = weights(old), weights(extended)
    for part in ("tower", "shared", "en", "fi"):
        assert are_equal(before[part], after[part]), part
    assert are_equal(before["language"], [value[..., :2] for value in after["language"]])
    assert all(np.abs(value[..., 2]).max() > 0 for value in after["language"]), "the new class was trained"
    for format in ("keras", "tflite"):
        new_outputs, old_outputs = outputs(extended, format), outputs(old, format)
        for head in ("shared", "en", "fi"):
            assert np.array_equal(new_outputs[f"{head}/scores"], old_outputs[f"{head}/scores"]), (format, head)


@pytest.mark.slow
def test_the_new_language_is_learned_and_identified(extended):
    """The head of the language and the head that identifies languages are trained; all heads are evaluated."""
    scores = json.loads((extended.path / "scores.json").read_text())["test"]
    assert min(scores[f"{head}/accuracy"] for head in ("hu", "en", "fi", "language")) > 0.9
    assert extended.tasks["language"].labels.names == ("en", "fi", "hu")
    (prediction,) = extended.predict([{"text": "kutya macska hu 1"}], "tflite")
    assert (prediction["language"], prediction["label"]) == ("hu", "animal")


@pytest.mark.slow
def test_data_of_the_new_language_alone(extended, tmp_path):
    """The head that identifies the language stays unchanged; the input language selects the new head."""
    data = table(tmp_path / "t.csv", SV)
    new, _ = train(tmp_path / "run", data, f"--init={extended.path}", "--add_language=sv", KERAS)
    assert new.tasks["language"].labels.names == ("en", "fi", "hu")
    before, after = outputs(extended, "keras"), outputs(new, "keras")
    assert all(np.array_equal(after[name], values) for name, values in before.items())
    scores = json.loads((new.path / "scores.json").read_text())["test"]
    assert scores["sv/accuracy"] > 0.9
    assert "en/accuracy" not in scores
    with_language, without_language = new.predict(
        [{"text": "hund katt sv 2", "language": "sv"}, {"text": "hund katt sv 2"}]
    )
    assert (with_language["language"], with_language["label"]) == ("sv", "animal")
    assert without_language["language"] != "sv"


@pytest.mark.slow
def test_a_language_with_its_own_classes(tmp_path):
    """Heads without a shared head can have different classes."""
    flags = ("--heads_by=language", "--heads=en=classify(), fi=classify()", "--frozen.epochs=2", KERAS)
    old, _ = train(tmp_path / "old", table(tmp_path / "t.csv", WORDS), *flags)
    data = table(tmp_path / "new.csv", WORDS | HU)
    data.write_text(data.read_text().replace("animal,hu", "\u00e1llat,hu"))
    extension = (f"--init={old.path}", "--add_language=hu")
    new, _ = train(tmp_path / "new", data, *extension, KERAS)
    assert {head: task.labels.names for head, task in new.tasks.items()} == {
        "en": ("animal", "colour"),
        "fi": ("animal", "colour"),
        "hu": ("colour", "\u00e1llat"),
    }
    new_outputs, old_outputs = outputs(new, "keras"), outputs(old, "keras")
    assert all(np.array_equal(new_outputs[name], values) for name, values in old_outputs.items())
    data.write_text(data.read_text().replace("animal,fi", "el\u00e4in,fi"))
    text = get_error("train", f"--data={data}", *SMALL, *extension, f"--workdir={tmp_path / 'other'}")
    assert "The head fi of the bundle does not have a class of the data: el\u00e4in." in text


@pytest.mark.slow
def test_unsuitable_options_are_refused(old, tmp_path):
    """The error is raised before data is read and anything is written."""
    plain = tmp_path / "plain"
    data = table(tmp_path / "t.csv", WORDS, count=10)
    train(plain, data, "--frozen.epochs=1", KERAS)
    extension = (f"--init={old.path}", "--add_language=hu")
    cases = {
        ("--add_language=hu",): "--add_language needs a bundle: hu. Name it with --init=FOLDER.",
        (f"--init={plain / 'bundle'}", "--add_language=hu"): "The bundle of --init has no heads by language",
        (
            f"--init={old.path}",
            "--add_language=fi",
        ): "The bundle of --init has a head of this name; its languages are en, fi: fi.",
        (*extension, "--heads=tag()"): "--heads cannot be combined with --add_language",
        (*extension, "--auxiliary_losses=align()"): "--auxiliary_losses cannot be combined with --add_language",
        (*extension, "--compress=qat()"): "--compress cannot be combined with --add_language",
        (*extension, "--text.normalize=nfc"): "--text.normalize differs from the bundle",
    }
    check_errors_before_writing(cases, tmp_path / "run", f"--data={data}", *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "The data has no sample of the language of --add_language: hu. Expected: en, fi."),
        ("kutya,animal,hu\n", "The head of language hu has too few samples: 1 to train on, 0 to test on."),
    ],
)
def test_too_little_data_is_refused(old, tmp_path, row, message):
    """The data needs enough samples of the new language."""
    data = table(tmp_path / "t.csv", WORDS, count=10)
    data.write_text(data.read_text() + row)
    extension = (f"--init={old.path}", "--add_language=hu", f"--workdir={tmp_path / 'run'}")
    assert message in get_error("train", f"--data={data}", *SMALL, *extension)


@pytest.mark.slow
def test_a_new_class_is_refused(old, tmp_path):
    """A head on top of the shared head has its classes."""
    data = table(tmp_path / "t.csv", HU)
    data.write_text(data.read_text().replace("animal", "\u00e1llat"))
    extension = (f"--init={old.path}", "--add_language=hu", f"--workdir={tmp_path / 'run'}")
    text = get_error("train", f"--data={data}", *SMALL, *extension)
    assert (
        "The head shared of the bundle does not have a class of the data: \u00e1llat. Expected: animal, colour." in text
    )
