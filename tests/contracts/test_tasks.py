"""Properties of every registered task with fixed classes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import TASKS, Features
from tfx_finetune.types.task import ClassLabels

NAMES = ("ägg", "bär und café", "猫", "🦊")
LABELS = ClassLabels(NAMES, (40, 30, 20, 10), 100)
MADE = {name: TASKS.build(Spec(name), LABELS) for name in TASKS}
FIXED = [name for name, task in MADE.items() if task.zero_shot is None and task.localization is None]
"""Tasks whose classes are fixed by training; tests/tasks/test_zero_shot.py and test_detect.py test the others."""
RNG = np.random.default_rng(0)
SCORES = RNG.dirichlet(np.ones(4), 50).astype(np.float32)


def built(name, **options):
    return TASKS.build(Spec(name, (), options), LABELS)


def model(task):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    return keras.Model(inputs, task.head(Features(inputs))["logits"])


def targets(task, count=50):
    return np.stack([task.encode(tf.constant(name)).numpy() for name in RNG.choice(NAMES, count)])


@pytest.mark.parametrize("name", FIXED)
def test_head_and_decoding_fit(name):
    """Features (batch, dim) -> float32 logits (batch, classes) -> scores in [0, 1], in mixed precision too."""
    task = built(name, init="glorot")
    logits = model(task)(RNG.normal(size=(5, 6)))
    scores = task.decode({"logits": logits})["scores"].numpy()
    assert scores.shape == (5, 4)
    assert ((scores >= 0) & (scores <= 1)).all()
    # A higher logit is a higher score.
    assert (np.argsort(logits, -1) == np.argsort(scores, -1)).all()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert model(task).output.dtype == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("name", FIXED)
def test_encode_returns_a_target_and_weight_a_scalar(name):
    """The target of one class is one-hot, and rare classes have larger weights."""
    task = built(name, class_weight="balanced")
    ds = tf.data.Dataset.from_tensor_slices(list(NAMES)).map(task.encode)
    assert np.array_equal(np.stack(list(ds.as_numpy_iterator())), np.eye(4))
    weights = [float(weight) for weight in ds.map(task.weight)]
    # The rarer the class, the heavier.
    assert weights == sorted(weights)
    assert weights[0] < 1 < weights[-1]


@pytest.mark.parametrize("options", [{}, {"focal": 2.0, "label_smoothing": 0.1}, {"init": "he"}], ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_training_learns(name, options):
    """Training with the task's loss, weights and metrics learns separable samples."""
    task = built(name, dropout=0.1, class_weight="balanced", **options)
    truth = np.arange(40) % 4
    target = np.stack([task.encode(tf.constant(NAMES[i])).numpy() for i in truth])
    weight = np.array([task.weight(tf.constant(row)).numpy() for row in target])
    inputs = np.eye(6)[truth] + RNG.normal(size=(40, 6)) / 10
    network = model(task)
    network.compile(keras.optimizers.Adam(0.1), loss=task.loss, metrics=task.make_metrics(), jit_compile=False)
    history = network.fit(inputs, target, sample_weight=weight, epochs=20, batch_size=40, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["accuracy"][-1] > 0.9
    scores = task.decode({"logits": network(inputs)})["scores"].numpy()
    assert task.compute_metrics(target, scores)[task.monitor] == 1.0
    assert [metric.name for metric in task.make_metrics()] == ["accuracy"]


@pytest.mark.parametrize("name", FIXED)
def test_metrics_are_json_and_higher_is_better(name):
    """Perfect scores give 1, reversed ones less; all values are plain numbers."""
    task = built(name)
    target = targets(task)
    best, worst = task.compute_metrics(target, target), task.compute_metrics(target, 1 - target)
    assert best[task.monitor] == 1.0
    assert worst[task.monitor] < 0.5
    assert list(json.loads(json.dumps(best, allow_nan=False))["per_class"]) == list(NAMES)
    assert all(type(value) is float for name, value in best.items() if name not in ("per_class", "confusion"))
    for row in best["per_class"].values():
        assert row["precision"] == row["recall"] == row["f1"] == 1.0
    assert sum(row["support"] for row in best["per_class"].values()) == 50


@pytest.mark.parametrize("name", FIXED)
def test_per_sample_score(name):
    """The score of a sample is in [0, 1], 1 for perfect scores, and does not depend on other samples."""
    task = built(name)
    target = targets(task)
    value = task.per_sample_score(target, SCORES)
    assert value.shape == (50,)
    assert ((value >= 0) & (value <= 1)).all()
    assert 0 < value.mean() < 1
    assert (task.per_sample_score(target, target) == 1).all()
    assert np.array_equal(task.per_sample_score(target[::-1], SCORES[::-1]), value[::-1])


@pytest.mark.parametrize("name", FIXED)
def test_format_prediction_returns_the_json_line_of_a_sample(name):
    """The record has label, score, and the scores of all classes by name."""
    record = built(name).format_prediction(np.array([0.1, 0.2, 0.6, 0.1], np.float32))
    assert list(record) == ["label", "score", "scores"]
    assert json.loads(json.dumps(record, ensure_ascii=False)) == record
    assert list(record["scores"]) == list(NAMES)
    assert record["scores"]["猫"] == pytest.approx(0.6)
    assert record["label"] in ("猫", ["猫"])


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": -0.1}, {"label_smoothing": 1}, {"focal": -1}, {"dropout": 1}, {"dropout": -0.1}],
    ids=str,
)
def test_options_out_of_range_are_refused(name, options):
    """An option out of range raises an error with its name and range."""
    with pytest.raises(UserError, match=rf"^{next(iter(options))} of {name}\(\) is out of range: .*\. Expected: 0 "):
        built(name, **options)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_default_column(name):
    """Each task has one of the three default columns."""
    assert built(name).column in ("label", "objects", "mask")
    assert built(name, column="ripeness").column == "ripeness"
