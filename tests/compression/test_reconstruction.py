"""Tests of layer-wise reconstruction, pruning and clustering."""

from functools import partial

import numpy as np
import pytest

from tfx_finetune.compression.methods import cluster, prune
from tfx_finetune.compression.reconstruction import admm_prune, quantease, reconstruct_layers, solve_least_squares

RIDGE = 1e-6


def make_equations(rows, weights):
    """Return the arguments of a solver for inputs (positions, inputs) and their outputs with the weights."""
    gram = rows.T @ rows / len(rows) + RIDGE * np.eye(rows.shape[1])
    return gram, gram @ weights, weights


def test_a_weight_compensates_for_the_zero_of_an_equal_input():
    """Two inputs are equal; one weight becomes zero, and the other one takes its value too."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1000, 1))
    rows = np.concatenate([one, one, other, np.ones((1000, 1))], axis=1)
    weights = np.array([[1.0], [2.0], [3.0], [4.0]])
    keep_mask = np.array([[False], [True], [True], [True]])
    solution = solve_least_squares(*make_equations(rows, weights), keep_mask)
    np.testing.assert_allclose(solution, [[0], [3], [3], [4]], atol=0.02)


def test_the_solution_is_close_to_that_of_numpy():
    """For correlated inputs, the error is close to that of NumPy's least squares."""
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)), np.ones(500)]
    weights = rng.normal(size=(13, 5))
    keep_mask = np.r_[rng.random((12, 5)) < 0.5, np.ones((1, 5), bool)]
    outputs = rows @ weights
    solution = solve_least_squares(*make_equations(rows, weights), keep_mask)
    assert (solution[~keep_mask] == 0).all()
    error = np.linalg.norm(rows @ solution - outputs)
    best = np.zeros_like(weights)
    for column in range(5):
        mask = keep_mask[:, column]
        best[mask, column] = np.linalg.lstsq(rows[:, mask], outputs[:, column], rcond=None)[0]
    best_error = np.linalg.norm(rows @ best - outputs)
    masked_error = np.linalg.norm(rows @ np.where(keep_mask, weights, 0) - outputs)
    assert best_error <= error < 1.02 * best_error < masked_error


def make_correlated(seed=0):
    """Return correlated inputs, as layers have them, and weights."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(800, 24)) @ rng.normal(size=(24, 24)), rng.normal(size=(24, 10))


def relative_error(rows, weights, solution):
    """Return the difference of the outputs relative to their size."""
    return np.linalg.norm(rows @ (solution - weights)) / np.linalg.norm(rows @ weights)


def test_zeros_per_kernel_follow_lamp_scores():
    """The scores by hand are 1/5 and 1, and 1/4, 1/3, 1/2 and 1. Half of the weights become zero."""
    kernels = {"few": np.array([[2.0, -1.0]]), "many": np.array([[1.0], [-1.0], [1.0], [1.0]])}
    assert prune._count_zeros(kernels, 0.5, uniform=False) == {"few": 1, "many": 2}
    assert prune._count_zeros(kernels, 0.5, uniform=True) == {"few": 1, "many": 2}
    kernels["few"] *= 100  # the scale of a kernel has no effect
    assert prune._count_zeros(kernels, 0.2, uniform=False) == {"few": 1, "many": 0}


@pytest.mark.parametrize("seed", range(3))
def test_admm_chooses_better_zeros_than_magnitude(seed):
    """The number of zeros is exact, and the error is lower than with the smallest weights at zero."""
    rows, weights = make_correlated(seed)
    arguments = make_equations(rows, weights)
    solution = admm_prune(*arguments, num_zeros=120)
    assert (solution == 0).sum() == 120
    smallest = solve_least_squares(*arguments, np.abs(weights) > np.median(np.abs(weights)))
    assert relative_error(rows, weights, solution) < 0.9 * relative_error(rows, weights, smallest)


@pytest.mark.parametrize("seed", range(3))
def test_quantease_is_better_than_the_nearest_values(seed):
    """The number of values is exact, zeros stay zeros, and the error is lower than with the nearest values."""
    rows, weights = make_correlated(seed)
    for zeros in (False, True):
        weights = np.where(np.abs(weights) < 0.5, 0.0, weights) if zeros else weights
        solution = quantease(*make_equations(rows, weights), max_values=6)
        values = np.unique(solution)
        assert len(values) == 6
        assert (solution[weights == 0] == 0).all()
        nearest = values[np.abs(weights[..., None] - values).argmin(-1)]
        assert relative_error(rows, weights, solution) < 0.9 * relative_error(
            rows, weights, np.where(weights == 0, 0, nearest)
        )


def test_a_kernel_of_zeros_stays_zero():
    """A head that was not trained has no values to cluster."""
    arguments = make_equations(*make_correlated())
    assert not quantease(*arguments[:2], np.zeros((24, 10)), max_values=4).any()


def test_the_block_size_of_quantease_has_no_effect(monkeypatch):
    """Smaller blocks give the same weights."""
    arguments = make_equations(*make_correlated())
    expected = quantease(*arguments, max_values=8)
    monkeypatch.setattr("tfx_finetune.compression.reconstruction._BLOCK", 5)
    np.testing.assert_allclose(quantease(*arguments, max_values=8), expected, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_reconstruction_halves_the_error_of_pruning(stride, padding):
    """The network has convolutions of any stride and padding, a branch and a sum."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((16, 16, 3))
    x = tf_keras.layers.Conv2D(12, 3, activation="relu")(inputs)
    x = tf_keras.layers.Conv2D(24, 1)(x)
    y = tf_keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = tf_keras.layers.Add()([x, tf_keras.layers.Conv2D(24, 3, padding="same")(y)])
    x = tf_keras.layers.Conv2D(16, 3, strides=stride, padding=padding, name="last")(x)
    tf_keras_model = tf_keras.Model(inputs, tf_keras.layers.Dense(3)(tf_keras.layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(40, 16, 16, 3)).astype(np.float32)
    before = tf_keras_model(samples).numpy()
    initial = tf_keras_model.get_weights()

    def choose_solver(layer):
        sizes = np.abs(layer.kernel.numpy())
        keep_mask = (sizes > np.median(sizes)).reshape(-1, sizes.shape[-1])
        return None if layer.name == "last" else partial(solve_least_squares, keep_mask=keep_mask)

    pruned = [
        np.where(np.abs(w) > np.median(np.abs(w)), w, 0) if w.ndim in (2, 4) and w.shape[2:] != (24, 1) else w
        for w in initial
    ]
    last = tf_keras_model.get_layer("last").get_weights()
    tf_keras_model.set_weights(pruned)
    tf_keras_model.get_layer("last").set_weights(last)
    pruned_error = np.linalg.norm(tf_keras_model(samples).numpy() - before)
    tf_keras_model.set_weights(initial)
    reconstruct_layers(tf_keras_model, choose_solver, [samples])
    assert np.linalg.norm(tf_keras_model(samples).numpy() - before) < 0.5 * pruned_error
    for layer in tf_keras_model.layers:
        if type(layer).__name__ in ("Conv2D", "Dense") and layer.name != "last":
            assert (layer.kernel.numpy() == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(tf_keras_model.get_layer("last").kernel, last[0])


def test_grouped_convolutions_and_layers_without_bias():
    """Layers without a bias get none, and grouped convolutions stay unchanged."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((8, 8, 4))
    x = tf_keras.layers.Conv2D(8, 3, groups=4, padding="same", name="grouped")(inputs)
    x = tf_keras.layers.Conv2D(8, 1, use_bias=False, name="plain")(x)
    tf_keras_model = tf_keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    # The channels are correlated, so that one can replace another.
    samples = (rng.normal(size=(16, 8, 8, 1)) + 0.3 * rng.normal(size=(16, 8, 8, 4))).astype(np.float32)
    initial, before = tf_keras_model.get_layer("grouped").get_weights(), tf_keras_model(samples).numpy()
    (kernel,) = tf_keras_model.get_layer("plain").get_weights()
    keep_mask = np.abs(kernel) > np.median(np.abs(kernel))
    reconstruct_layers(tf_keras_model, lambda layer: partial(solve_least_squares, keep_mask=keep_mask[0, 0]), [samples])
    assert all(
        np.array_equal(a, b) for a, b in zip(tf_keras_model.get_layer("grouped").get_weights(), initial, strict=True)
    )
    (fitted,) = tf_keras_model.get_layer("plain").get_weights()
    assert ((fitted == 0) == ~keep_mask).all()
    error = np.linalg.norm(tf_keras_model(samples).numpy() - before)
    tf_keras_model.get_layer("plain").set_weights([np.where(keep_mask, kernel, 0)])
    assert error < 0.95 * np.linalg.norm(tf_keras_model(samples).numpy() - before)


def test_layers_are_fitted_before_their_activation():
    """An activation inside a layer and a separate activation layer give the same weights."""
    import tf_keras

    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(32, 6, 6, 1)) + 0.3 * rng.normal(size=(32, 6, 6, 4))).astype(np.float32)
    results = []
    for inside in (True, False):
        tf_keras.utils.set_random_seed(0)
        inputs = tf_keras.Input((6, 6, 4))
        x = tf_keras.layers.Conv2D(8, 3, activation="relu" if inside else None, name="first")(inputs)
        x = x if inside else tf_keras.layers.ReLU()(x)
        tf_keras_model = tf_keras.Model(inputs, tf_keras.layers.Conv2D(3, 1, name="second")(x))
        before, initial = tf_keras_model(samples).numpy(), tf_keras_model.get_layer("first").kernel.numpy()
        reconstruct_layers(
            tf_keras_model,
            lambda layer: partial(admm_prune, num_zeros=layer.kernel.shape.num_elements() // 2),
            [samples],
        )
        results.append(
            (
                np.linalg.norm(tf_keras_model(samples).numpy() - before) / np.linalg.norm(before),
                tf_keras_model.get_weights(),
            )
        )
        assert (tf_keras_model.get_layer("first").kernel.numpy() != initial).any()
    assert results[0][0] == results[1][0] < 0.3
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("compression", [prune.prune(epochs=0), cluster.cluster(epochs=0)])
def test_kernels_with_many_inputs_are_compressed_by_magnitude(compression):
    """Their equations need too much memory: the smallest weights become zero, or weights get the nearest values."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((9000,))
    x = tf_keras.layers.Dense(3, name="wide")(inputs)
    tf_keras_model = tf_keras.Model(inputs, tf_keras.layers.Dense(8, name="narrow")(x))
    before = tf_keras_model.get_layer("wide").kernel.numpy()
    samples = np.random.default_rng(0).normal(size=(64, 9000)).astype(np.float32)
    copy = tf_keras.models.clone_model(tf_keras_model)
    copy.set_weights(tf_keras_model.get_weights())
    compression.strip(compression.wrap(copy, 0, [samples], []), tf_keras_model)
    after = tf_keras_model.get_layer("wide").kernel.numpy()
    if compression.name == "prune":
        assert (after == 0).mean() == pytest.approx(0.5, abs=0.01)
        assert (after[after != 0] == before[after != 0]).all()
    else:
        assert len(np.unique(after)) <= 16
        assert np.linalg.norm(after - before) < 0.15 * np.linalg.norm(before)
