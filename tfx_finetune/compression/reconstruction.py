"""A layer with other weights, of which many are zero or which are few in value, gives nearly what it gave.

Magnitude alone says what may go, and training brings the rest back; but a network loses far less, and needs less
training, where each layer's weights are those that give the same outputs on calibration samples (Hassibi and Stork,
Optimal brain surgeon, NIPS 1992; Hubara et al., Accelerated sparse neural training, arXiv 2102.08124, for whole
networks). `thinned` and `rounded` say which weights those are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress

KERNEL_LAYERS = ("Conv2D", "Dense")
# Training samples that layers are fitted on. On Tux Paint's stamps a pruned network's answers are twice as far (KL)
# from those of the whole one with 64 of them, and no nearer with 580.
NUM_SAMPLES = 192
# Positions of feature maps that a kernel is fitted on, of all samples.
_MAX_POSITIONS = 50_000
# Inputs of a kernel, which has an equation for each: so many take half a gigabyte. Kernels with more stay as they are.
_MAX_INPUTS = 8192
# Share of the mean power of an input that is added to each: it holds weights near what they were where data is scarce.
_RIDGE = 0.05
# Of conjugate gradients, which solve a column exactly after as many steps as it has weights, and nearly long before.
_CG_STEPS = 60
# In which zeros are chosen, more in each, and in which they settle.
_ADMM_ITERATIONS = 30
# Over the inputs of a kernel while it is rounded, so many of them before the others hear of it.
_SWEEPS, _BLOCK = 3, 128

Solver = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""How the weights of a kernel are found: (power, wanted, weights) -> those for which `power @ found` is near `wanted`.

power: Inputs times inputs, the mean over positions, positive definite (inputs, inputs).
wanted: Inputs times wanted outputs, likewise (inputs, outputs).
weights: As they were (inputs, outputs).
"""


def reconstruct_layers(
    tf_keras_model: Any, choose_solver: Callable[[Any], Solver | None], calibration_inputs: Sequence[np.ndarray]
) -> None:
    """Gives layers of a tf_keras network other weights, with which each gives nearly what it gave.

    A layer is fitted to its outputs in the whole network, on its inputs in the network so far, so that it also mends
    what the layers before it lost.

    Args:
        twin: A functional model; changed in place.
        how: A layer of `KERNELS` -> what finds its weights; None leaves it alone, as are grouped convolutions and
            layers of more than 8,192 inputs.
        examples: What the model takes of samples, one (n, ...) an input.
    """
    solves = {
        layer.name: solve
        for layer in tf_keras_model.layers
        if _is_reconstructable(layer) and (solve := choose_solver(layer)) is not None
    }
    step = -(-len(calibration_inputs[0]) // NUM_SAMPLES)
    samples = [tf.constant(x[::step].astype(np.float32)) for x in calibration_inputs]
    uses = dict(tf_keras_model._tensor_usage_count)
    # Each value is there as often as it is used, and gone when it is not needed any more.
    sources = [str(id(tensor)) for tensor in tf_keras_model.inputs]
    whole, now = ({source: [x] * uses[source] for source, x in zip(sources, samples, strict=True)} for _ in range(2))
    nodes = [
        node
        for depth in sorted(tf_keras_model._nodes_by_depth, reverse=True)
        for node in tf_keras_model._nodes_by_depth[depth]
    ]
    count = len(solves)
    with progress.bar("refit", count) as advance:
        for node in nodes:
            if node.is_input:
                continue
            before, after = (node.map_arguments(values) for values in (whole, now))
            wanted = node.layer(*before[0], **before[1])
            if solve := solves.pop(node.layer.name, None):  # a layer that stands in several places, in the first
                _reconstruct_layer(node.layer, before[0][0], after[0][0], solve)
                advance(1, f"{count} layers, {len(samples[0])} samples")
            found = node.layer(*after[0], **after[1])
            for values, outputs in ((whole, wanted), (now, found)):
                for name, tensor in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    values[str(name)] = [tensor] * uses[str(name)]


def _is_reconstructable(layer: Any) -> bool:
    # The channels of a grouped convolution have inputs of their own.
    known = type(layer).__name__ in KERNEL_LAYERS and getattr(layer, "groups", 1) == 1
    return known and int(np.prod(layer.kernel.shape[:-1])) <= _MAX_INPUTS


def _reconstruct_layer(layer: Any, original_inputs: tf.Tensor, inputs: tf.Tensor, solver: Solver) -> None:
    """Gives a layer the weights that are found, and the bias that belongs to them.

    What it gave is that in front of its activation, which the equations of weights are about.
    """
    kernel = layer.kernel.numpy()
    weights = kernel.reshape(-1, kernel.shape[-1])
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    rng, share = np.random.default_rng(0), -(-_MAX_POSITIONS // len(inputs))
    count, power, product = 0, np.zeros((len(weights),) * 2), np.zeros(weights.shape)
    mean, middle = np.zeros(len(weights)), np.zeros(weights.shape[1])
    # Sample by sample: the patches of all would not fit into memory.
    for one, other in zip(inputs, original_inputs, strict=True):
        rows, whole = (tf.reshape(_extract_patches(layer, x[None]), (-1, len(weights))).numpy() for x in (one, other))
        some = rng.permutation(len(rows))[:share]
        rows, outputs = rows[some], whole[some] @ weights + bias
        count += len(rows)
        mean, middle = mean + rows.sum(0), middle + outputs.sum(0)
        power, product = power + rows.T @ rows, product + rows.T @ outputs
    weights = weights.astype(np.float64)
    mean, middle, power, product = (total / count for total in (mean, middle, power, product))
    if layer.use_bias:
        # It gives the outputs their means, so that the kernel has to care for what is left alone.
        power -= np.outer(mean, mean)
        product -= np.outer(mean, middle)
    ridge = _RIDGE * np.diag(power).mean() + 1e-12
    found = solver(power + ridge * np.eye(len(power)), product + ridge * weights, weights)
    layer.set_weights([found.reshape(kernel.shape), *([middle - mean @ found] if layer.use_bias else [])])


def _extract_patches(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """What a kernel is multiplied with at each position, on the last axis."""
    if layer.kernel.shape.rank == 2:
        return inputs
    height, width = layer.kernel_size
    return tf.image.extract_patches(
        inputs, [1, height, width, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1], layer.padding.upper()
    )


def solve_least_squares(
    gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, keep_mask: np.ndarray
) -> np.ndarray:
    """A `Solve` of least squares, by conjugate gradients from the weights as they were.

    Args:
        power: See `Solve`.
        wanted: Likewise.
        weights: Likewise.
        kept: Which weights may be other than zero (inputs, outputs).
    """
    # The equations of all columns at once: each has its own weights that stay, and so a matrix of its own.
    scale = 1 / np.diag(gram)[:, None]
    found = np.where(keep_mask, weights, 0.0)
    rest = keep_mask * (cross_gram - gram @ found)
    step = scale * rest
    size = (rest * step).sum(0)
    for _ in range(_CG_STEPS):
        pushed = keep_mask * (gram @ step)
        length = size / np.maximum((step * pushed).sum(0), 1e-30)
        found += length * step
        rest -= length * pushed
        before, size = size, (rest * scale * rest).sum(0)
        step = scale * rest + size / np.maximum(before, 1e-30) * step
    return found


def admm_prune(gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, num_zeros: int) -> np.ndarray:
    """A `Solve` that chooses which weights are zero: alternately the nearest weights of all, and of so many zeros
    (the alternating direction method of multipliers: Boža, Fast and effective weight update for pruned large language
    models, arXiv 2401.02938).

    Args:
        power: See `Solve`.
        wanted: Likewise.
        weights: Likewise.
        zeros: How many are zero.
    """
    # As if all inputs were equally loud: only so are weights small that matter little.
    scale = np.sqrt(np.diag(gram))[:, None]
    found, gap = weights * scale, np.zeros(weights.shape)
    # The method's own strength of 1 is added to what the inputs have.
    inverse, product = np.linalg.inv(gram / (scale * scale.T) + np.eye(len(gram))), cross_gram / scale
    kept = np.ones(weights.shape, bool)
    for round_ in range(_ADMM_ITERATIONS):
        if round_ < _ADMM_ITERATIONS // 2:
            share = 1 - (1 - 2 * (round_ + 1) / _ADMM_ITERATIONS) ** 3
            order = np.abs(found + gap).ravel().argsort(kind="stable").argsort()
            kept = (order >= round(share * num_zeros)).reshape(weights.shape)
        sparse = np.where(kept, found + gap, 0.0)
        gap += found - sparse
        found = inverse @ (product + sparse - gap)
    return solve_least_squares(gram, cross_gram, sparse / scale, kept)


def quantease(gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, max_values: int) -> np.ndarray:
    """A `Solve` of few values: one input after the other, each of its weights takes the value that is best beside the
    others as they are, some times over (coordinate descent: Behdin et al., QuantEase, arXiv 2309.01885). Weights of
    zero stay so.

    Args:
        power: See `Solve`.
        wanted: Likewise.
        weights: Likewise.
        count: How many values; they are the means of k-means.
    """
    kept = weights != 0
    if not kept.any():  # a head that was not trained
        return weights
    found = solve_least_squares(gram, cross_gram, weights, kept)
    values = fit_kmeans_centroids(found, max_values)
    between = (values[1:] + values[:-1]) / 2
    found = np.where(kept, values[np.searchsorted(between, found)], 0.0)
    for _ in range(_SWEEPS):
        for start in range(0, len(found), _BLOCK):
            block = slice(start, start + _BLOCK)
            inside, rest = gram[block, block], cross_gram[block] - gram[block] @ found
            for row, mine in enumerate(found[block]):
                best = values[np.searchsorted(between, mine + rest[row] / inside[row, row])]
                best = np.where(kept[start + row], best, 0.0)
                rest -= np.outer(inside[row], best - mine)
                mine[:] = best
    return found


def fit_kmeans_centroids(weights: np.ndarray, max_values: int) -> np.ndarray:
    """Values that are nearest to weights of any shape, by k-means: so many at most, ascending.

    Zero is one of them where it is one of the weights.
    """
    from sklearn.cluster import KMeans

    there = weights[weights != 0]
    zero = [0.0] * (there.size < weights.size)
    some = np.random.default_rng(0).permutation(there)[:20_000, None]
    found = (
        KMeans(min(max_values - len(zero), len(np.unique(some))), n_init=1, random_state=0).fit(some).cluster_centers_
    )
    return np.sort([*zero, *found.ravel()])
