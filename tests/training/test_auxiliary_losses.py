"""What is learned beside the labels: each loss against NumPy, who stands beside whom, runs as a person starts them."""

import csv
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import get_error, check_errors_before_writing, run_in_process
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.training.objectives import GradientReversal
from tfx_finetune.training.pair_sampler import PairSampler, compute_group_and_domain_ids
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.table import UNLABELED, Table
from tfx_finetune.types.training import ObjectiveContext

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 3)).astype(np.float32)
MARKS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [-1, 0], [2, -1]], np.float32)
"""Groups 0 of three languages and 1 of two, one sample without a group, one without a language."""
SMALL = (
    "--nocache.enabled",
    "--backbone=bag_of_embeddings(size=24, dim=16)",
    "--finetune.epochs=0",
    "--frozen.unfreeze=all",
    "--frozen.learning_rate=0.03",
    "--exports=keras_file()",
)
WORDS = {
    "en": ("dog cat cow horse pig goat", "red blue pink green brown gray"),
    "fi": ("koira kissa lehmä hevonen sika vuohi", "punainen sininen pinkki vihreä ruskea harmaa"),
    "xx": ("redox bluex pinkx greenx brownx grayx", "dogx catx cowx horsex pigx goatx"),
}
"""Of two classes; what looks like English in `xx` means the other one."""


def term(spec, values=3, steps=100):
    """An objective's loss of the features of a batch."""
    return OBJECTIVES.build(parse_spec(spec)).make_loss(ObjectiveContext(keras.Input((3,)), values, steps, 0))


def table(path: Path) -> Path:
    """Names of things in three languages, a thing a group."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label", "language", "group", "source"])
        writer.writeheader()
        for at, label in enumerate(("animal", "colour")):
            for thing in range(36):
                for language, kinds in WORDS.items():
                    words = kinds[at].split()
                    text = f"{words[thing % 6]} {words[thing // 6]}"
                    group, source = f"{label}{thing}", ("web", "book")[thing % 2]
                    writer.writerow(
                        {"text": text, "label": label, "language": language, "group": group, "source": source}
                    )
    return path


def scores(workdir: Path) -> dict:
    """Those of the trained model."""
    return json.loads((workdir / "bundle" / "scores.json").read_text())["test"]


def test_align_is_infonce():
    """By hand: each sample finds those of its group in other languages among all but itself."""
    loss = term("align(temperature=0.5)").loss
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    cosines = unit @ unit.T / 0.5
    expected = []
    for row, (group, language) in enumerate(MARKS):
        like = [at for at, (g, v) in enumerate(MARKS) if g == group != -1 and v != language]
        others = [at for at in range(7) if at != row]
        if like:
            total = np.log(np.exp(cosines[row, others]).sum())
            expected.append(np.mean([total - cosines[row, at] for at in like]))
    assert len(expected) == 5
    np.testing.assert_allclose(float(loss(MARKS, FEATURES)), np.mean(expected), rtol=1e-5)


def test_align_leaves_its_own_language_out():
    """Another sample of the same group and language is neither sought nor a candidate."""
    loss, unit = term("align(temperature=1.0)").loss, np.eye(3, dtype=np.float32)[[0, 1, 0]]
    # The third is a copy of the first: with it as a candidate the loss of the first would be larger.
    found = float(loss(np.array([[0, 0], [0, 1], [0, 0]], np.float32), unit))
    assert found == pytest.approx(np.log(2) / 3, abs=1e-6)


def test_coral_is_the_distance_of_covariances():
    """Of NumPy's covariances, over 4 dim^2, on the mean over the pairs of domains that have two samples."""
    loss, rows = term("coral()").loss, np.array([0, 0, 1, 1, 1, 2, 2, 3, -1])
    features = RNG.normal(size=(9, 3)).astype(np.float32)
    found = [np.cov(features[rows == domain], rowvar=False) for domain in range(3)]
    each = [((found[a] - found[b]) ** 2).sum() / (4 * 3**2) for a, b in ((0, 1), (0, 2), (1, 2))]
    loss = term("coral()", values=4).loss
    given = np.stack([np.full(9, -1), rows], 1).astype(np.float32)
    np.testing.assert_allclose(float(loss(given, features)), np.mean(each), rtol=1e-5)
    assert float(loss(given[7:], features[7:])) == 0


def test_dann_is_a_cross_entropy_whose_gradient_is_reversed():
    """What knows its domain counts; the gradient is that of the paper's schedule."""
    logits = RNG.normal(size=(7, 3)).astype(np.float32)
    known = MARKS[:, 1] != -1
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean([log[row, int(MARKS[row, 1])] for row in np.flatnonzero(known)])
    np.testing.assert_allclose(float(term("dann()").loss(MARKS, logits)), expected, rtol=1e-5)
    layer, x = GradientReversal(4), tf.constant([[1.0, -2.0]])
    for step in range(3):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        np.testing.assert_allclose(y, x)
        strength = 2 / (1 + np.exp(-10 * step / 4)) - 1
        np.testing.assert_allclose(tape.gradient(y, x), np.full((1, 2), -strength), rtol=1e-6)
    layer(x)
    assert float(layer.step) == 3, "answers are no steps"


def company(objectives, groups, values, labelled):
    """Company of samples whose only feature is their number."""
    count = len(groups)
    split = np.array(["train"] * labelled + [UNLABELED] * (count - labelled), object)
    columns = {"group": np.array(groups, object), "language": np.array(values, object)}
    columns["source"] = columns["language"]
    data = Table(split, split, np.full(count, "", object), split, columns)
    parts = [np.arange(labelled), np.arange(labelled, count)]
    stores = [
        FeatureStore(
            ({"text": part[:, None].astype(np.float32)},), {"label": part[:, None]}, {"label": np.ones(len(part))}
        )
        for part in parts
    ]
    built = {spec: OBJECTIVES.build(parse_spec(spec)) for spec in objectives}
    return PairSampler(stores, data, built, 0), data


def test_company_is_of_the_same_group_in_another_language():
    """Whoever is of it, sooner or later; who has none of his own has any without a label."""
    groups, languages = ["a", "b", "", "a", "a", "b", "c"], ["en", "en", "en", "fi", "sv", "en", "fi"]
    made, data = company(["align()"], groups, languages, 3)
    np.testing.assert_array_equal(compute_group_and_domain_ids(data, "language")[:, 0], [0, 1, -1, 0, 0, 1, 2])
    met: dict[int, set] = {0: set(), 1: set(), 2: set()}
    for number in range(60):
        found, alike = made.sample_positives(np.arange(3), number)
        assert alike.tolist() == [True, False, False]
        for row, other in enumerate(found.tolist()):
            met[row].add(other)
    assert met == {0: {3, 4}, 1: {3, 4, 5, 6}, 2: {3, 4, 5, 6}}
    np.testing.assert_array_equal(made.sample_positives(np.arange(3), 7)[0], made.sample_positives(np.arange(3), 7)[0])


@pytest.mark.parametrize(
    ("spec", "weight"), [("align()", 0.25), ("align(propagate_labels=False)", 0.0), ("dann()", 0.0)]
)
def test_company_stands_behind_a_batch(spec, weight):
    """With what it is seen as, the label of its like or none, and marks."""
    made, _ = company([spec], ["a", "b", "a", "b"], ["en", "en", "fi", "fi"], 2)
    batches = tf.data.Dataset.from_tensors(
        ({"text": [[1.0], [0.0]]}, {"label": [[5.0], [6.0]], "sample_index": [1, 0]}, {"label": [1.0, 1.0]})
    )
    ((inputs, targets, weights),) = made.append_positives(batches, 0, 1).as_numpy_iterator()
    each = made.num_positives
    assert targets["label"][:, 0].tolist() == [5, 6] * (1 + each)
    assert weights["label"].tolist() == [1, 1] + [weight, weight] * each
    seen = inputs["text"][:, 0].astype(int)
    np.testing.assert_array_equal(targets[next(iter(made.ids))], next(iter(made.ids.values()))[seen])
    if spec != "dann()":
        assert seen.tolist() == [1, 0] + [3, 2] * each


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """English alone is learned, with the names of training things beside it."""
    root = tmp_path_factory.mktemp("aligned")
    flags = (f"--data={table(root / 't.csv')}", *SMALL, "--train_languages=en", "--frozen.epochs=10")
    done = run_in_process("train", *flags, "--auxiliary_losses=align(), dann(), coral()", f"--workdir={root / 'run'}")
    assert done.returncode == 0, done.stderr
    alone = run_in_process("train", *flags, f"--workdir={root / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    return root


def test_names_in_other_languages_teach(aligned):
    """Languages of which no label is learned, though one of them misleads who knows English."""
    found, alone = scores(aligned / "run"), scores(aligned / "alone")
    assert found["label/accuracy[fi]"] > max(0.8, alone["label/accuracy[fi]"])
    assert found["label/accuracy[xx]"] > 0.8
    assert alone["label/accuracy[xx]"] < 0.5


@pytest.mark.slow
def test_objectives_on_a_frozen_tower(aligned, tmp_path):
    """What the heads read is then what is kept of the tower: names beside a sample have its label all the same."""
    flags = (f"--data={aligned / 't.csv'}", *SMALL, "--train_languages=en", "--frozen.unfreeze=0", "--frozen.epochs=20")
    done = run_in_process(
        "train", *flags, "--auxiliary_losses=align(), dann(column='language'), coral()", f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "run")["label/accuracy[fi]"] > 0.8
    found = run_in_process("train", *flags, "--auxiliary_losses=align()", "--find_lr", f"--workdir={tmp_path / 'rate'}")
    assert found.returncode == 0, found.stderr


def test_objectives_leave_with_the_phase(aligned):
    """The bundle has the layers of one that was trained without."""
    found, alone = (
        load_keras_model(Bundle.open(aligned / name / "bundle").get_path("keras")) for name in ("run", "alone")
    )
    assert list(found.output) == list(alone.output)
    assert [type(layer) for layer in found.layers] == [type(layer) for layer in alone.layers]
    assert [weight.shape for weight in found.weights] == [weight.shape for weight in alone.weights]
    assert "learned from without their labels" in (aligned / "run" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupted_phase_goes_on_to_the_same(aligned, tmp_path, monkeypatch):
    """Company, the domain classifier and its schedule among it."""
    from tfx_finetune.training.callbacks import CheckpointAndEarlyStopping

    flags = (f"--data={aligned / 't.csv'}", *SMALL, "--train_languages=en", "--frozen.epochs=4")
    flags += ("--auxiliary_losses=align(), dann(column='language')",)
    assert run_in_process("train", *flags, f"--workdir={tmp_path / 'whole'}").returncode == 0
    ended, save = [], CheckpointAndEarlyStopping.on_epoch_end

    def killed(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1 and not ended:
            ended.append(epoch)
            raise RuntimeError("killed")

    monkeypatch.setattr(CheckpointAndEarlyStopping, "on_epoch_end", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run_in_process("train", *flags, f"--workdir={tmp_path / 'parts'}")
    assert run_in_process("train", *flags, f"--workdir={tmp_path / 'parts'}").returncode == 0
    assert scores(tmp_path / "parts") == scores(tmp_path / "whole")


def test_samples_without_a_label_are_a_domain(tmp_path):
    """For what needs no label; they are neither validated nor tested on."""
    data = table(tmp_path / "t.csv")
    lines = data.read_text().splitlines()
    blank = [re.sub(",(animal|colour),", ",,", line) if line.endswith(",web") else line for line in lines]
    data.write_text("\n".join(blank))
    flags = (f"--data={data}", *SMALL, "--frozen.epochs=1", f"--workdir={tmp_path / 'run'}")
    assert "a sample without a label" in get_error("train", *flags)
    flags = (*flags[:-1], f"--workdir={tmp_path / 'more'}")
    done = run_in_process("train", *flags, "--auxiliary_losses=dann(), coral()")
    assert done.returncode == 0, done.stderr
    assert "learned from without their labels" in done.stderr
    assert "label/accuracy[web]" not in scores(tmp_path / "more")


def test_what_does_not_fit_is_said(tmp_path):
    """Before anything is written where that can be, and before anything is trained in any case."""
    data = table(tmp_path / "t.csv")
    cases = {
        ("--auxiliary_losses=alin()",): "did you mean align",
        ("--auxiliary_losses=align(weight=0)",): "weight of align() is out of range: 0. Expected: above 0.",
        ("--auxiliary_losses=align(num_positives=0)",): "Option of align() is out of range: temperature=0.1, num_positives=0. Expected: above 0.",
        ("--auxiliary_losses=dann(hidden_units=0)",): "hidden_units of dann() is out of range: 0. Expected: 1 or more.",
        ("--auxiliary_losses=dann(), dann()",): "--auxiliary_losses names one twice",
    }
    check_errors_before_writing(cases, tmp_path / "none", f"--data={data}", *SMALL)
    later = {
        "--auxiliary_losses=coral(column='sauce')": "did you mean source",
        "--auxiliary_losses=align(column='group')": "No training sample shares its group with a sample of another group.",
    }
    for number, (flag, message) in enumerate(later.items()):
        assert message in get_error("train", f"--data={data}", *SMALL, flag, f"--workdir={tmp_path / str(number)}")
