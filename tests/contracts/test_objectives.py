"""Contract of all objectives; every registered objective is tested."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import OBJECTIVES
from tfx_finetune.types.training import UNKNOWN_ID, ObjectiveContext

BATCH_SIZE, DIM = 8, 4


@pytest.fixture(params=list(OBJECTIVES))
def objective(request):
    """Each registered objective with its default options."""
    return OBJECTIVES.build(Spec(request.param))


def compute_loss_and_gradient(objective, ids, features):
    """Return the weighted loss of a batch and its gradient with respect to the features."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((DIM,))
    auxiliary = objective.make_loss(ObjectiveContext(inputs, 2, 10, 0))
    model, x = keras.Model(inputs, auxiliary.output), tf.constant(features)
    model(x, training=True)  # the gradient reversal layer has no gradient in its first step
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = auxiliary.weight * auxiliary.loss(ids, model(x, training=True))
    return float(loss), tape.gradient(loss, x)


def make_batch():
    """Return IDs and features of four groups with two samples in different domains."""
    features = np.random.default_rng(0).normal(size=(BATCH_SIZE, DIM)).astype(np.float32)
    ids = np.stack([np.arange(BATCH_SIZE) // 2, np.arange(BATCH_SIZE) % 2], axis=1).astype(np.float32)
    return ids, features


def test_an_objective_has_a_gradient(objective):
    """The loss is positive, and a change of the features lowers it."""
    loss, gradient = compute_loss_and_gradient(objective, *make_batch())
    assert loss > 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_the_order_of_samples_has_no_effect(objective):
    """The loss depends on IDs and features only."""
    ids, features = make_batch()
    order = np.random.default_rng(1).permutation(BATCH_SIZE)
    assert compute_loss_and_gradient(objective, ids, features)[0] == pytest.approx(
        compute_loss_and_gradient(objective, ids[order], features[order])[0], rel=1e-5
    )


def test_samples_with_unknown_ids_are_ignored(objective):
    """A batch of such samples has no loss."""
    ids, features = make_batch()
    loss, gradient = compute_loss_and_gradient(objective, np.full_like(ids, UNKNOWN_ID), features)
    assert loss == 0
    assert gradient is None or not np.abs(gradient).max()
