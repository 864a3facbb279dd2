"""Weights that stay take over what was taken from a kernel."""

import numpy as np
import pytest

from tfx_finetune.refit import refit, solved


def test_correlated_inputs_take_over_from_one_another():
    """Two inputs that are always equal: one of them does the work of both, and the output is what it was."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1000, 1))
    rows = np.concatenate([one, one, other, np.ones((1000, 1))], axis=1)
    weights = np.array([[1.0], [2.0], [3.0], [4.0]])
    kept = np.array([[False], [True], [True], [True]])
    found = solved(rows, rows @ weights, weights, kept)
    np.testing.assert_allclose(found, [[0], [3], [3], [4]], atol=0.02)


def test_as_near_as_least_squares():
    """On inputs that go together, as near as NumPy's own least squares on the weights that stay."""
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)), np.ones(500)]
    weights = rng.normal(size=(13, 5))
    kept = np.r_[rng.random((12, 5)) < 0.5, np.ones((1, 5), bool)]
    outputs = rows @ weights
    found = solved(rows, outputs, weights, kept)
    assert (found[~kept] == 0).all()
    apart = np.linalg.norm(rows @ found - outputs)
    best = np.zeros_like(weights)
    for column in range(5):
        some = kept[:, column]
        best[some, column] = np.linalg.lstsq(rows[:, some], outputs[:, column], rcond=None)[0]
    least = np.linalg.norm(rows @ best - outputs)
    cut = np.linalg.norm(rows @ np.where(kept, weights, 0) - outputs)
    assert least <= apart < 1.02 * least < cut


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_network_gives_nearly_what_it_gave(stride, padding):
    """Convolutions of any stride and padding, a branch, a sum: far nearer than with the weights cut alone."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((16, 16, 3))
    x = tf_keras.layers.Conv2D(12, 3, activation="relu")(inputs)
    x = tf_keras.layers.Conv2D(24, 1)(x)
    y = tf_keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = tf_keras.layers.Add()([x, tf_keras.layers.Conv2D(24, 3, padding="same")(y)])
    x = tf_keras.layers.Conv2D(16, 3, strides=stride, padding=padding, name="last")(x)
    twin = tf_keras.Model(inputs, tf_keras.layers.Dense(3)(tf_keras.layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(40, 16, 16, 3)).astype(np.float32)
    before = twin(samples).numpy()
    start = twin.get_weights()

    def keep(layer):
        sizes = np.abs(layer.kernel.numpy())
        return None if layer.name == "last" else sizes > np.median(sizes)

    cut = [
        np.where(np.abs(w) > np.median(np.abs(w)), w, 0) if w.ndim in (2, 4) and w.shape[2:] != (24, 1) else w
        for w in start
    ]
    last = twin.get_layer("last").get_weights()
    twin.set_weights(cut)
    twin.get_layer("last").set_weights(last)
    lost = np.linalg.norm(twin(samples).numpy() - before)
    twin.set_weights(start)
    refit(twin, keep, [samples])
    assert np.linalg.norm(twin(samples).numpy() - before) < 0.5 * lost
    for layer in twin.layers:
        if type(layer).__name__ in ("Conv2D", "Dense") and layer.name != "last":
            assert (layer.kernel.numpy() == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(twin.get_layer("last").kernel, last[0])


def test_layers_without_bias_and_grouped_ones():
    """A layer without bias gets none; the channels of a grouped convolution are left to training."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((8, 8, 4))
    x = tf_keras.layers.Conv2D(8, 3, groups=4, padding="same", name="grouped")(inputs)
    x = tf_keras.layers.Conv2D(8, 1, use_bias=False, name="plain")(x)
    twin = tf_keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    # Channels that go together, so that one can take over from another.
    samples = (rng.normal(size=(16, 8, 8, 1)) + 0.3 * rng.normal(size=(16, 8, 8, 4))).astype(np.float32)
    start, before = twin.get_layer("grouped").get_weights(), twin(samples).numpy()
    (kernel,) = twin.get_layer("plain").get_weights()
    stays = np.abs(kernel) > np.median(np.abs(kernel))
    refit(twin, lambda layer: stays, [samples])
    assert all(np.array_equal(a, b) for a, b in zip(twin.get_layer("grouped").get_weights(), start, strict=True))
    (fitted,) = twin.get_layer("plain").get_weights()
    assert ((fitted == 0) == ~stays).all()
    lost = np.linalg.norm(twin(samples).numpy() - before)
    twin.get_layer("plain").set_weights([np.where(stays, kernel, 0)])
    assert lost < 0.95 * np.linalg.norm(twin(samples).numpy() - before)
