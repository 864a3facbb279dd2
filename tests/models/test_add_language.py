"""A language is added to a bundle with heads by language, which keeps all that it has."""

import json

import numpy as np
import pytest

from tests.helpers.commands import refused, refused_before_writing, within
from tests.tasks.test_routing import SMALL, WORDS, table
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.models.backbones.bundle import load_keras_file

HU = {"hu": ("kutya macska tehén", "piros kék rózsaszín")}
SV = {"sv": ("hund katt ko", "röd blå rosa")}
EXPORTS = "--exports=keras_file(), tflite()"
KERAS = "--exports=keras_file()"


def trained(folder, data, *flags):
    found = within("train", f"--data={data}", *SMALL, "--frozen.epochs=10", EXPORTS, *flags, f"--workdir={folder}")
    assert found.returncode == 0, found.stderr
    return Bundle.open(folder / "bundle"), found.stderr


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Heads for two languages, with an adapter below each."""
    root = tmp_path_factory.mktemp("growing")
    heads = ("--heads=classify(l2_to_shared=0.0001, adapter_dim=4)", "--heads_by=language")
    return trained(root / "run", table(root / "t.csv", WORDS), *heads)[0]


def outputs(bundle, format):
    """Scores of a file for some texts, by head."""
    predict = bundle.reader(format).predict
    texts = ("dog cat en 1", "red blue en 2", "koira kissa fi 3", "kutya piros hu 4", "x")
    rows = [predict(bundle.prepare({"text": text.encode()})) for text in texts]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def weights(bundle):
    """Weights of each head, in the order of its layers, and of the tower."""
    model, network = load_keras_file(bundle.path, bundle.manifest), bundle.manifest["layer_names"]
    lists = network["heads"] | {"tower": network["towers"]["text"]["layers"]}
    return {
        name: [value for layer in layers for value in model.get_layer(layer).get_weights()]
        for name, layers in lists.items()
    }


def same(ours, theirs):
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def grown(old, tmp_path_factory):
    """The same with Hungarian, of data that has the old languages too."""
    root = tmp_path_factory.mktemp("grown")
    data = table(root / "t.csv", WORDS | HU)
    return trained(root / "run", data, f"--init={old.path}", "--add_language=hu")[0]


@pytest.mark.slow
def test_what_the_bundle_has_stays_as_it_is(old, grown):
    """To the last bit: the tower and every head, in weights and in what files answer."""
    before, after = weights(old), weights(grown)
    for part in ("tower", "shared", "en", "fi"):
        assert same(before[part], after[part]), part
    assert same(before["language"], [value[..., :2] for value in after["language"]])
    assert all(np.abs(value[..., 2]).max() > 0 for value in after["language"]), "the new row has learned"
    for format in ("keras", "tflite"):
        mine, theirs = outputs(grown, format), outputs(old, format)
        for head in ("shared", "en", "fi"):
            assert np.array_equal(mine[f"{head}/scores"], theirs[f"{head}/scores"]), (format, head)


@pytest.mark.slow
def test_the_new_language_is_learned_and_told(grown):
    """Its head, and the head that tells the language, whose old classes are first; old heads are scored too."""
    scores = json.loads((grown.path / "scores.json").read_text())["test"]
    assert min(scores[f"{head}/accuracy"] for head in ("hu", "en", "fi", "language")) > 0.9
    assert grown.tasks["language"].labels.names == ("en", "fi", "hu")
    (found,) = grown.predict([{"text": "kutya macska hu 1"}], "tflite")
    assert (found["language"], found["label"]) == ("hu", "animal")


@pytest.mark.slow
def test_data_of_the_new_language_alone(grown, tmp_path):
    """The head that tells languages has nothing to tell it from, and stays; who says the language gets its head."""
    data = table(tmp_path / "t.csv", SV)
    new, _ = trained(tmp_path / "run", data, f"--init={grown.path}", "--add_language=sv", KERAS)
    assert new.tasks["language"].labels.names == ("en", "fi", "hu")
    before, after = outputs(grown, "keras"), outputs(new, "keras")
    assert all(np.array_equal(after[name], values) for name, values in before.items())
    scores = json.loads((new.path / "scores.json").read_text())["test"]
    assert scores["sv/accuracy"] > 0.9
    assert "en/accuracy" not in scores
    said, guessed = new.predict([{"text": "hund katt sv 2", "language": "sv"}, {"text": "hund katt sv 2"}])
    assert (said["language"], said["label"]) == ("sv", "animal")
    assert guessed["language"] != "sv"


@pytest.mark.slow
def test_a_language_with_classes_of_its_own(tmp_path):
    """Where heads stand by themselves."""
    flags = ("--heads_by=language", "--heads=en=classify(), fi=classify()", "--frozen.epochs=2", KERAS)
    old, _ = trained(tmp_path / "old", table(tmp_path / "t.csv", WORDS), *flags)
    data = table(tmp_path / "new.csv", WORDS | HU)
    data.write_text(data.read_text().replace("animal,hu", "\u00e1llat,hu"))
    grows = (f"--init={old.path}", "--add_language=hu")
    new, _ = trained(tmp_path / "new", data, *grows, KERAS)
    assert {head: task.labels.names for head, task in new.tasks.items()} == {
        "en": ("animal", "colour"),
        "fi": ("animal", "colour"),
        "hu": ("colour", "\u00e1llat"),
    }
    mine, theirs = outputs(new, "keras"), outputs(old, "keras")
    assert all(np.array_equal(mine[name], values) for name, values in theirs.items())
    data.write_text(data.read_text().replace("animal,fi", "el\u00e4in,fi"))
    said = refused("train", f"--data={data}", *SMALL, *grows, f"--workdir={tmp_path / 'other'}")
    assert "a class that the bundle's head fi does not know; received: el\u00e4in" in said


@pytest.mark.slow
def test_what_cannot_be_added_is_said_before_anything_is_written(old, tmp_path):
    """On one line, without a look at the data."""
    plain = tmp_path / "plain"
    data = table(tmp_path / "t.csv", WORDS, each=10)
    trained(plain, data, "--frozen.epochs=1", KERAS)
    grows = (f"--init={old.path}", "--add_language=hu")
    cases = {
        ("--add_language=hu",): "--add_language wants a bundle",
        (f"--init={plain / 'bundle'}", "--add_language=hu"): "the bundle has no heads by language",
        (f"--init={old.path}", "--add_language=fi"): "it has the languages en, fi",
        (*grows, "--heads=tag()"): "--heads does not go with --add_language",
        (*grows, "--auxiliary_losses=align()"): "--auxiliary_losses does not go with --add_language",
        (*grows, "--compress=qat()"): "--compress does not go with --add_language",
        (*grows, "--text.normalize=nfc"): "--text.normalize is not the bundle's",
    }
    refused_before_writing(cases, tmp_path / "run", f"--data={data}", *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("", "the data has no sample of the language that is added; received: hu; allowed: en, fi"),
        ("kutya,animal,hu\n", "too few samples for a head of their own; received: language hu: "),
    ],
)
def test_data_that_does_not_do(old, tmp_path, row, said):
    """It lacks the language, or has too little of it."""
    data = table(tmp_path / "t.csv", WORDS, each=10)
    data.write_text(data.read_text() + row)
    grows = (f"--init={old.path}", "--add_language=hu", f"--workdir={tmp_path / 'run'}")
    assert said in refused("train", f"--data={data}", *SMALL, *grows)


@pytest.mark.slow
def test_a_class_that_the_shared_head_lacks(old, tmp_path):
    """A head that stands on the shared one has its classes."""
    data = table(tmp_path / "t.csv", HU)
    data.write_text(data.read_text().replace("animal", "\u00e1llat"))
    grows = (f"--init={old.path}", "--add_language=hu", f"--workdir={tmp_path / 'run'}")
    said = refused("train", f"--data={data}", *SMALL, *grows)
    assert "a class that the bundle's head shared does not know; received: \u00e1llat; allowed: animal, colour" in said
