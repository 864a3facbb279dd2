"""What every objective promises; being registered is enough to be tested."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import UNKNOWN_ID, ObjectiveContext

COUNT, DIM = 8, 4


@pytest.fixture(params=list(OBJECTIVES))
def objective(request):
    """One of those that are registered, as it is by default."""
    return OBJECTIVES.build(Spec(request.param))


def loss_of(objective, marks, features):
    """The weighted loss of a batch and its gradient by the features."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((DIM,))
    term = objective.term(ObjectiveContext(inputs, 2, 10, 0))
    model, x = keras.Model(inputs, term.output), tf.constant(features)
    model(x, training=True)  # where a gradient is reversed by and by, its first step has none
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = term.weight * term.loss(marks, model(x, training=True))
    return float(loss), tape.gradient(loss, x)


def batch():
    """Four groups of two samples with different values."""
    features = np.random.default_rng(0).normal(size=(COUNT, DIM)).astype(np.float32)
    marks = np.stack([np.arange(COUNT) // 2, np.arange(COUNT) % 2], axis=1).astype(np.float32)
    return marks, features


def test_it_changes_features(objective):
    """There is a loss, and what heads read can lower it."""
    loss, gradient = loss_of(objective, *batch())
    assert loss > 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_order_does_not_matter(objective):
    """Samples of a batch are told apart by their marks alone."""
    marks, features = batch()
    order = np.random.default_rng(1).permutation(COUNT)
    assert loss_of(objective, marks, features)[0] == pytest.approx(
        loss_of(objective, marks[order], features[order])[0], rel=1e-5
    )


def test_what_has_no_marks_is_not_learned(objective):
    """A batch of it has no loss."""
    marks, features = batch()
    loss, gradient = loss_of(objective, np.full_like(marks, UNKNOWN_ID), features)
    assert loss == 0
    assert gradient is None or not np.abs(gradient).max()
