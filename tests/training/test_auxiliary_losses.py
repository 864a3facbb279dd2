"""Tests of auxiliary losses: each loss against NumPy, the sampling of positives, and whole runs."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import check_errors_before_writing, get_error, run_in_process
from tests.helpers.small_data import TEXT_FLAGS, write_language_table
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
IDS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [-1, 0], [2, -1]], np.float32)
"""Group 0 has three languages and group 1 two; one sample has no group, one has no language."""


def make_loss(spec, num_domains=3):
    """Return the Keras loss of an objective for features of size 3."""
    context = ObjectiveContext(keras.Input((3,)), num_domains, total_steps=100, seed=0)
    return OBJECTIVES.build(parse_spec(spec)).make_loss(context).loss


def read_scores(workdir: Path) -> dict:
    """Return the test scores of the trained model."""
    return json.loads((workdir / "bundle" / "scores.json").read_text())["test"]


def test_align_is_the_infonce_loss():
    """By hand: the positives of a sample are in its group and another language; all other samples are negatives."""
    loss = make_loss("align(temperature=0.5)")
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    cosines = unit @ unit.T / 0.5
    expected = []
    for row, (group, language) in enumerate(IDS):
        positives = [i for i, (g, v) in enumerate(IDS) if g == group != -1 and v != language]
        others = [i for i in range(7) if i != row]
        if positives:
            total = np.log(np.exp(cosines[row, others]).sum())
            expected.append(np.mean([total - cosines[row, i] for i in positives]))
    assert len(expected) == 5
    np.testing.assert_allclose(float(loss(IDS, FEATURES)), np.mean(expected), rtol=1e-5)


def test_align_ignores_samples_of_the_same_group_and_language():
    """Such a sample is neither a positive nor a negative."""
    loss, unit = make_loss("align(temperature=1.0)"), np.eye(3, dtype=np.float32)[[0, 1, 0]]
    # The third sample is a copy of the first; as a negative, it would increase the loss of the first.
    value = float(loss(np.array([[0, 0], [0, 1], [0, 0]], np.float32), unit))
    assert value == pytest.approx(np.log(2) / 3, abs=1e-6)


def test_coral_is_the_distance_between_covariances():
    """The distance is divided by 4 dim^2 and averaged over the pairs of domains with two samples or more."""
    domains = np.array([0, 0, 1, 1, 1, 2, 2, 3, -1])
    features = RNG.normal(size=(9, 3)).astype(np.float32)
    covariances = [np.cov(features[domains == domain], rowvar=False) for domain in range(3)]
    pairs = ((0, 1), (0, 2), (1, 2))
    distances = [((covariances[a] - covariances[b]) ** 2).sum() / (4 * 3**2) for a, b in pairs]
    loss = make_loss("coral()", num_domains=4)
    ids = np.stack([np.full(9, -1), domains], 1).astype(np.float32)
    np.testing.assert_allclose(float(loss(ids, features)), np.mean(distances), rtol=1e-5)
    assert float(loss(ids[7:], features[7:])) == 0


def test_dann_is_a_cross_entropy_with_a_reversed_gradient():
    """Samples with a known domain count; the factor of the gradient follows the schedule of the paper."""
    logits = RNG.normal(size=(7, 3)).astype(np.float32)
    is_known = IDS[:, 1] != -1
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean([log_probs[row, int(IDS[row, 1])] for row in np.flatnonzero(is_known)])
    np.testing.assert_allclose(float(make_loss("dann()")(IDS, logits)), expected, rtol=1e-5)
    layer, x = GradientReversal(4), tf.constant([[1.0, -2.0]])
    for step in range(3):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        np.testing.assert_allclose(y, x)
        strength = 2 / (1 + np.exp(-10 * step / 4)) - 1
        np.testing.assert_allclose(tape.gradient(y, x), np.full((1, 2), -strength), rtol=1e-6)
    layer(x)
    assert float(layer.step) == 3, "inference is not a step"


def make_pair_sampler(objectives, groups, values, num_labeled):
    """Return a sampler of samples whose only feature is their index, and their table."""
    count = len(groups)
    split = np.array(["train"] * num_labeled + [UNLABELED] * (count - num_labeled), object)
    columns = {"group": np.array(groups, object), "language": np.array(values, object)}
    columns["source"] = columns["language"]
    data = Table(split, split, np.full(count, "", object), split, columns)
    parts = [np.arange(num_labeled), np.arange(num_labeled, count)]
    stores = [
        FeatureStore(
            ({"text": part[:, None].astype(np.float32)},), {"label": part[:, None]}, {"label": np.ones(len(part))}
        )
        for part in parts
    ]
    built = {spec: OBJECTIVES.build(parse_spec(spec)) for spec in objectives}
    return PairSampler(stores, data, built, 0), data


def test_positives_share_a_group_and_differ_in_language():
    """All positives are sampled over time; a sample without a positive gets any unlabeled sample."""
    groups, languages = ["a", "b", "", "a", "a", "b", "c"], ["en", "en", "en", "fi", "sv", "en", "fi"]
    sampler, table = make_pair_sampler(["align()"], groups, languages, 3)
    np.testing.assert_array_equal(compute_group_and_domain_ids(table, "language")[:, 0], [0, 1, -1, 0, 0, 1, 2])
    sampled: dict[int, set] = {0: set(), 1: set(), 2: set()}
    for step in range(60):
        indices, is_positive = sampler.sample_positives(np.arange(3), step)
        assert is_positive.tolist() == [True, False, False]
        for row, index in enumerate(indices.tolist()):
            sampled[row].add(index)
    assert sampled == {0: {3, 4}, 1: {3, 4, 5, 6}, 2: {3, 4, 5, 6}}
    first, second = (sampler.sample_positives(np.arange(3), 7)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("spec", "weight"), [("align()", 0.25), ("align(propagate_labels=False)", 0.0), ("dann()", 0.0)]
)
def test_sampled_samples_are_appended_to_a_batch(spec, weight):
    """They have their own inputs and IDs, and the label of their anchor with a weight that may be 0."""
    sampler, _ = make_pair_sampler([spec], ["a", "b", "a", "b"], ["en", "en", "fi", "fi"], 2)
    batches = tf.data.Dataset.from_tensors(
        ({"text": [[1.0], [0.0]]}, {"label": [[5.0], [6.0]], "sample_index": [1, 0]}, {"label": [1.0, 1.0]})
    )
    ((inputs, targets, weights),) = sampler.append_positives(batches, 0, 1).as_numpy_iterator()
    num_positives = sampler.num_positives
    assert targets["label"][:, 0].tolist() == [5, 6] * (1 + num_positives)
    assert weights["label"].tolist() == [1, 1] + [weight, weight] * num_positives
    indices = inputs["text"][:, 0].astype(int)
    output, ids = next(iter(sampler.ids.items()))
    np.testing.assert_array_equal(targets[output], ids[indices])
    if spec != "dann()":
        assert indices.tolist() == [1, 0] + [3, 2] * num_positives


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """Train on English labels, with names in other languages as positives, and without auxiliary losses."""
    root = tmp_path_factory.mktemp("aligned")
    flags = (
        f"--data={write_language_table(root / 't.csv')}",
        *TEXT_FLAGS,
        "--train_languages=en",
        "--frozen.epochs=10",
    )
    result = run_in_process("train", *flags, "--auxiliary_losses=align(), dann(), coral()", f"--workdir={root / 'run'}")
    assert result.returncode == 0, result.stderr
    alone = run_in_process("train", *flags, f"--workdir={root / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    return root


def test_auxiliary_losses_transfer_to_languages_without_labels(aligned):
    """Accuracy is high in languages without labels, although the names of one of them mislead."""
    with_losses, without_losses = read_scores(aligned / "run"), read_scores(aligned / "alone")
    assert with_losses["label/accuracy[fi]"] > max(0.8, without_losses["label/accuracy[fi]"])
    assert with_losses["label/accuracy[xx]"] > 0.8
    assert without_losses["label/accuracy[xx]"] < 0.5


@pytest.mark.slow
def test_auxiliary_losses_with_a_frozen_tower(aligned, tmp_path):
    """The losses read cached features, and positives have the label of their anchor."""
    flags = (
        f"--data={aligned / 't.csv'}",
        *TEXT_FLAGS,
        "--train_languages=en",
        "--frozen.unfreeze=0",
        "--frozen.epochs=20",
    )
    result = run_in_process(
        "train", *flags, "--auxiliary_losses=align(), dann(column='language'), coral()", f"--workdir={tmp_path / 'run'}"
    )
    assert result.returncode == 0, result.stderr
    assert read_scores(tmp_path / "run")["label/accuracy[fi]"] > 0.8
    result = run_in_process(
        "train", *flags, "--auxiliary_losses=align()", "--find_lr", f"--workdir={tmp_path / 'rate'}"
    )
    assert result.returncode == 0, result.stderr


def test_layers_of_auxiliary_losses_are_removed(aligned):
    """The bundle has the same layers as one without auxiliary losses."""
    model, reference = (
        load_keras_model(Bundle.open(aligned / name / "bundle").get_path("keras")) for name in ("run", "alone")
    )
    assert list(model.output) == list(reference.output)
    assert [type(layer) for layer in model.layers] == [type(layer) for layer in reference.layers]
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in reference.weights]
    assert "are used without their labels" in (aligned / "run" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupted_phase_resumes_to_the_same_result(aligned, tmp_path, monkeypatch):
    """Sampled positives, the domain classifier and its schedule resume too."""
    from tfx_finetune.training.callbacks import CheckpointAndEarlyStopping

    flags = (f"--data={aligned / 't.csv'}", *TEXT_FLAGS, "--train_languages=en", "--frozen.epochs=4")
    flags += ("--auxiliary_losses=align(), dann(column='language')",)
    assert run_in_process("train", *flags, f"--workdir={tmp_path / 'reference'}").returncode == 0
    killed_epochs, on_epoch_end = [], CheckpointAndEarlyStopping.on_epoch_end

    def kill_once(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch == 1 and not killed_epochs:
            killed_epochs.append(epoch)
            raise RuntimeError("killed")

    monkeypatch.setattr(CheckpointAndEarlyStopping, "on_epoch_end", kill_once)
    with pytest.raises(RuntimeError, match="killed"):
        run_in_process("train", *flags, f"--workdir={tmp_path / 'resumed'}")
    assert run_in_process("train", *flags, f"--workdir={tmp_path / 'resumed'}").returncode == 0
    assert read_scores(tmp_path / "resumed") == read_scores(tmp_path / "reference")


def test_unlabeled_samples_may_be_a_domain(tmp_path):
    """Losses that need no labels use them; they are in no validation or test split."""
    data = write_language_table(tmp_path / "t.csv")
    lines = data.read_text().splitlines()
    blank = [re.sub(",(animal|colour),", ",,", line) if line.endswith(",web") else line for line in lines]
    data.write_text("\n".join(blank))
    flags = (f"--data={data}", *TEXT_FLAGS, "--frozen.epochs=1", f"--workdir={tmp_path / 'run'}")
    assert "A sample has no label: " in get_error("train", *flags)
    flags = (*flags[:-1], f"--workdir={tmp_path / 'more'}")
    result = run_in_process("train", *flags, "--auxiliary_losses=dann(), coral()")
    assert result.returncode == 0, result.stderr
    assert "are used without their labels" in result.stderr
    assert "label/accuracy[web]" not in read_scores(tmp_path / "more")


def test_invalid_auxiliary_losses_raise_an_error(tmp_path):
    """Errors of options come before anything is written, errors of the data before training."""
    data = write_language_table(tmp_path / "t.csv")
    cases = {
        ("--auxiliary_losses=alin()",): "Unknown objective: alin. Expected: align, coral, dann. Did you mean align?",
        ("--auxiliary_losses=align(weight=0)",): "weight of align() is out of range: 0. Expected: above 0.",
        (
            "--auxiliary_losses=align(num_positives=0)",
        ): "Option of align() is out of range: temperature=0.1, num_positives=0. Expected: above 0.",
        ("--auxiliary_losses=dann(hidden_units=0)",): "hidden_units of dann() is out of range: 0. Expected: 1 or more.",
        ("--auxiliary_losses=dann(), dann()",): "--auxiliary_losses names a loss twice",
    }
    check_errors_before_writing(cases, tmp_path / "none", f"--data={data}", *TEXT_FLAGS)
    later = {
        "--auxiliary_losses=coral(column='sauce')": "Did you mean source?",
        "--auxiliary_losses=align(column='group')": "No training sample shares its group with a sample of another",
    }
    for number, (flag, message) in enumerate(later.items()):
        assert message in get_error("train", f"--data={data}", *TEXT_FLAGS, flag, f"--workdir={tmp_path / str(number)}")
