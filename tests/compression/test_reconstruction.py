"""Weights that stay take over what was taken from a kernel."""

from functools import partial

import numpy as np
import pytest

from tfx_finetune.compression.methods import cluster, prune
from tfx_finetune.compression.reconstruction import admm_prune, quantease, reconstruct_layers, solve_least_squares

RIDGE = 1e-6


def equations(rows, weights):
    """What a `Solve` is given, for the outputs that the weights give of these inputs."""
    power = rows.T @ rows / len(rows) + RIDGE * np.eye(rows.shape[1])
    return power, power @ weights, weights


def test_correlated_inputs_take_over_from_one_another():
    """Two inputs that are always equal: one of them does the work of both, and the output is what it was."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1000, 1))
    rows = np.concatenate([one, one, other, np.ones((1000, 1))], axis=1)
    weights = np.array([[1.0], [2.0], [3.0], [4.0]])
    kept = np.array([[False], [True], [True], [True]])
    found = solve_least_squares(*equations(rows, weights), kept)
    np.testing.assert_allclose(found, [[0], [3], [3], [4]], atol=0.02)


def test_as_near_as_least_squares():
    """On inputs that go together, as near as NumPy's own least squares on the weights that stay."""
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)), np.ones(500)]
    weights = rng.normal(size=(13, 5))
    kept = np.r_[rng.random((12, 5)) < 0.5, np.ones((1, 5), bool)]
    outputs = rows @ weights
    found = solve_least_squares(*equations(rows, weights), kept)
    assert (found[~kept] == 0).all()
    apart = np.linalg.norm(rows @ found - outputs)
    best = np.zeros_like(weights)
    for column in range(5):
        some = kept[:, column]
        best[some, column] = np.linalg.lstsq(rows[:, some], outputs[:, column], rcond=None)[0]
    least = np.linalg.norm(rows @ best - outputs)
    cut = np.linalg.norm(rows @ np.where(kept, weights, 0) - outputs)
    assert least <= apart < 1.02 * least < cut


def correlated(seed=0):
    """Inputs that go together, as those of a layer do, and weights."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(800, 24)) @ rng.normal(size=(24, 24)), rng.normal(size=(24, 10))


def apart(rows, weights, found):
    """By how much outputs differ, as a share."""
    return np.linalg.norm(rows @ (found - weights)) / np.linalg.norm(rows @ weights)


def test_which_kernels_have_weights_to_spare():
    """Scores by hand, each square over those not smaller: 1/5 and 1, and 1/4, 1/3, 1/2 and 1; half of them go."""
    kernels = {"few": np.array([[2.0, -1.0]]), "many": np.array([[1.0], [-1.0], [1.0], [1.0]])}
    assert prune._count_zeros(kernels, 0.5, uniform=False) == {"few": 1, "many": 2}
    assert prune._count_zeros(kernels, 0.5, uniform=True) == {"few": 1, "many": 2}
    kernels["few"] *= 100  # how large a kernel's weights are says nothing
    assert prune._count_zeros(kernels, 0.2, uniform=False) == {"few": 1, "many": 0}


@pytest.mark.parametrize("seed", range(3))
def test_zeros_are_chosen_for_what_they_do(seed):
    """So many as were asked for; the outputs are nearer than without the smallest weights, mended as well as can be."""
    rows, weights = correlated(seed)
    given = equations(rows, weights)
    found = admm_prune(*given, num_zeros=120)
    assert (found == 0).sum() == 120
    smallest = solve_least_squares(*given, np.abs(weights) > np.median(np.abs(weights)))
    assert apart(rows, weights, found) < 0.9 * apart(rows, weights, smallest)


@pytest.mark.parametrize("seed", range(3))
def test_few_values_and_others_make_up_for_it(seed):
    """So many values as were asked for, zeros among them where there were zeros; the outputs are nearer than with
    each weight at the nearest of the same values.
    """
    rows, weights = correlated(seed)
    for zeros in (False, True):
        weights = np.where(np.abs(weights) < 0.5, 0.0, weights) if zeros else weights
        found = quantease(*equations(rows, weights), max_values=6)
        values = np.unique(found)
        assert len(values) == 6
        assert (found[weights == 0] == 0).all()
        nearest = values[np.abs(weights[..., None] - values).argmin(-1)]
        assert apart(rows, weights, found) < 0.9 * apart(rows, weights, np.where(weights == 0, 0, nearest))


def test_a_kernel_of_zeros_stays_one():
    """A head that was not trained has no values to be rounded to."""
    given = equations(*correlated())
    assert not quantease(*given[:2], np.zeros((24, 10)), max_values=4).any()


def test_rounding_in_blocks_is_rounding_one_by_one(monkeypatch):
    """More inputs than are rounded before the others hear of it: the same weights."""
    given = equations(*correlated())
    together = quantease(*given, max_values=8)
    monkeypatch.setattr("tfx_finetune.compression.reconstruction._BLOCK", 5)
    np.testing.assert_allclose(quantease(*given, max_values=8), together, atol=1e-9)


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

    def how(layer):
        sizes = np.abs(layer.kernel.numpy())
        kept = (sizes > np.median(sizes)).reshape(-1, sizes.shape[-1])
        return None if layer.name == "last" else partial(solve_least_squares, keep_mask=kept)

    cut = [
        np.where(np.abs(w) > np.median(np.abs(w)), w, 0) if w.ndim in (2, 4) and w.shape[2:] != (24, 1) else w
        for w in start
    ]
    last = twin.get_layer("last").get_weights()
    twin.set_weights(cut)
    twin.get_layer("last").set_weights(last)
    lost = np.linalg.norm(twin(samples).numpy() - before)
    twin.set_weights(start)
    reconstruct_layers(twin, how, [samples])
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
    reconstruct_layers(twin, lambda layer: partial(solve_least_squares, keep_mask=stays[0, 0]), [samples])
    assert all(np.array_equal(a, b) for a, b in zip(twin.get_layer("grouped").get_weights(), start, strict=True))
    (fitted,) = twin.get_layer("plain").get_weights()
    assert ((fitted == 0) == ~stays).all()
    lost = np.linalg.norm(twin(samples).numpy() - before)
    twin.get_layer("plain").set_weights([np.where(stays, kernel, 0)])
    assert lost < 0.95 * np.linalg.norm(twin(samples).numpy() - before)


def test_an_activation_inside_a_layer_is_one_behind_it():
    """Weights are fitted to what comes in front of it."""
    import tf_keras

    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(32, 6, 6, 1)) + 0.3 * rng.normal(size=(32, 6, 6, 4))).astype(np.float32)
    found = []
    for inside in (True, False):
        tf_keras.utils.set_random_seed(0)
        inputs = tf_keras.Input((6, 6, 4))
        x = tf_keras.layers.Conv2D(8, 3, activation="relu" if inside else None, name="first")(inputs)
        x = x if inside else tf_keras.layers.ReLU()(x)
        twin = tf_keras.Model(inputs, tf_keras.layers.Conv2D(3, 1, name="second")(x))
        before, start = twin(samples).numpy(), twin.get_layer("first").kernel.numpy()
        reconstruct_layers(
            twin, lambda layer: partial(admm_prune, num_zeros=layer.kernel.shape.num_elements() // 2), [samples]
        )
        found.append((np.linalg.norm(twin(samples).numpy() - before) / np.linalg.norm(before), twin.get_weights()))
        assert (twin.get_layer("first").kernel.numpy() != start).any()
    assert found[0][0] == found[1][0] < 0.3
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("compression", [prune.prune(epochs=0), cluster.cluster(epochs=0)])
def test_a_kernel_of_very_many_inputs_is_compressed_without_equations(compression):
    """Theirs would not fit into memory: it loses its smallest weights, or takes the values nearest to them."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.Input((9000,))
    x = tf_keras.layers.Dense(3, name="wide")(inputs)
    twin = tf_keras.Model(inputs, tf_keras.layers.Dense(8, name="narrow")(x))
    before = twin.get_layer("wide").kernel.numpy()
    samples = np.random.default_rng(0).normal(size=(64, 9000)).astype(np.float32)
    copy = tf_keras.models.clone_model(twin)
    copy.set_weights(twin.get_weights())
    compression.strip(compression.wrap(copy, 0, [samples], []), twin)
    after = twin.get_layer("wide").kernel.numpy()
    if compression.name == "prune":
        assert (after == 0).mean() == pytest.approx(0.5, abs=0.01)
        assert (after[after != 0] == before[after != 0]).all()
    else:
        assert len(np.unique(after)) <= 16
        assert np.linalg.norm(after - before) < 0.15 * np.linalg.norm(before)
