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

KERNELS = ("Conv2D", "Dense")
# Training samples that layers are fitted on. On Tux Paint's stamps a pruned network's answers are twice as far (KL)
# from those of the whole one with 64 of them, and no nearer with 580.
SAMPLES = 192
# Positions of feature maps that a kernel is fitted on, of all samples.
_ROWS = 50_000
# Inputs of a kernel, which has an equation for each: so many take half a gigabyte. Kernels with more stay as they are.
_MOST = 8192
# Share of the mean power of an input that is added to each: it holds weights near what they were where data is scarce.
_RIDGE = 0.05
# Of conjugate gradients, which solve a column exactly after as many steps as it has weights, and nearly long before.
_STEPS = 60
# In which zeros are chosen, more in each, and in which they settle.
_ROUNDS = 30
# Over the inputs of a kernel while it is rounded, so many of them before the others hear of it.
_SWEEPS, _BLOCK = 3, 128

Solve = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""How the weights of a kernel are found: (power, wanted, weights) -> those for which `power @ found` is near `wanted`.

power: Inputs times inputs, the mean over positions, positive definite (inputs, inputs).
wanted: Inputs times wanted outputs, likewise (inputs, outputs).
weights: As they were (inputs, outputs).
"""


def refit(twin: Any, how: Callable[[Any], Solve | None], examples: Sequence[np.ndarray]) -> None:
    """Gives layers of a tf_keras network other weights, with which each gives nearly what it gave.

    A layer is fitted to its outputs in the whole network, on its inputs in the network so far, so that it also mends
    what the layers before it lost.

    Args:
        twin: A functional model; changed in place.
        how: A layer of `KERNELS` -> what finds its weights; None leaves it alone, as are grouped convolutions and
            layers of more than 8,192 inputs.
        examples: What the model takes of samples, one (n, ...) an input.
    """
    solves = {layer.name: solve for layer in twin.layers if _able(layer) and (solve := how(layer)) is not None}
    step = -(-len(examples[0]) // SAMPLES)
    samples = [tf.constant(x[::step].astype(np.float32)) for x in examples]
    uses = dict(twin._tensor_usage_count)
    # Each value is there as often as it is used, and gone when it is not needed any more.
    sources = [str(id(tensor)) for tensor in twin.inputs]
    whole, now = ({source: [x] * uses[source] for source, x in zip(sources, samples, strict=True)} for _ in range(2))
    nodes = [node for depth in sorted(twin._nodes_by_depth, reverse=True) for node in twin._nodes_by_depth[depth]]
    count = len(solves)
    with progress.bar("refit", count) as advance:
        for node in nodes:
            if node.is_input:
                continue
            before, after = (node.map_arguments(values) for values in (whole, now))
            wanted = node.layer(*before[0], **before[1])
            if solve := solves.pop(node.layer.name, None):  # a layer that stands in several places, in the first
                _fit(node.layer, before[0][0], after[0][0], solve)
                advance(1, f"{count} layers, {len(samples[0])} samples")
            found = node.layer(*after[0], **after[1])
            for values, outputs in ((whole, wanted), (now, found)):
                for name, tensor in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    values[str(name)] = [tensor] * uses[str(name)]


def _able(layer: Any) -> bool:
    # The channels of a grouped convolution have inputs of their own.
    known = type(layer).__name__ in KERNELS and getattr(layer, "groups", 1) == 1
    return known and int(np.prod(layer.kernel.shape[:-1])) <= _MOST


def _fit(layer: Any, before: tf.Tensor, inputs: tf.Tensor, solve: Solve) -> None:
    """Gives a layer the weights that are found, and the bias that belongs to them.

    What it gave is that in front of its activation, which the equations of weights are about.
    """
    kernel = layer.kernel.numpy()
    weights = kernel.reshape(-1, kernel.shape[-1])
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    rng, share = np.random.default_rng(0), -(-_ROWS // len(inputs))
    count, power, product = 0, np.zeros((len(weights),) * 2), np.zeros(weights.shape)
    mean, middle = np.zeros(len(weights)), np.zeros(weights.shape[1])
    # Sample by sample: the patches of all would not fit into memory.
    for one, other in zip(inputs, before, strict=True):
        rows, whole = (tf.reshape(_patches(layer, x[None]), (-1, len(weights))).numpy() for x in (one, other))
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
    found = solve(power + ridge * np.eye(len(power)), product + ridge * weights, weights)
    layer.set_weights([found.reshape(kernel.shape), *([middle - mean @ found] if layer.use_bias else [])])


def _patches(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """What a kernel is multiplied with at each position, on the last axis."""
    if layer.kernel.shape.rank == 2:
        return inputs
    height, width = layer.kernel_size
    return tf.image.extract_patches(
        inputs, [1, height, width, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1], layer.padding.upper()
    )


def solved(power: np.ndarray, wanted: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A `Solve` of least squares, by conjugate gradients from the weights as they were.

    Args:
        power: See `Solve`.
        wanted: Likewise.
        weights: Likewise.
        kept: Which weights may be other than zero (inputs, outputs).
    """
    # The equations of all columns at once: each has its own weights that stay, and so a matrix of its own.
    scale = 1 / np.diag(power)[:, None]
    found = np.where(kept, weights, 0.0)
    rest = kept * (wanted - power @ found)
    step = scale * rest
    size = (rest * step).sum(0)
    for _ in range(_STEPS):
        pushed = kept * (power @ step)
        length = size / np.maximum((step * pushed).sum(0), 1e-30)
        found += length * step
        rest -= length * pushed
        before, size = size, (rest * scale * rest).sum(0)
        step = scale * rest + size / np.maximum(before, 1e-30) * step
    return found


def thinned(power: np.ndarray, wanted: np.ndarray, weights: np.ndarray, zeros: int) -> np.ndarray:
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
    scale = np.sqrt(np.diag(power))[:, None]
    found, gap = weights * scale, np.zeros(weights.shape)
    # The method's own strength of 1 is added to what the inputs have.
    inverse, product = np.linalg.inv(power / (scale * scale.T) + np.eye(len(power))), wanted / scale
    kept = np.ones(weights.shape, bool)
    for round_ in range(_ROUNDS):
        if round_ < _ROUNDS // 2:
            share = 1 - (1 - 2 * (round_ + 1) / _ROUNDS) ** 3
            order = np.abs(found + gap).ravel().argsort(kind="stable").argsort()
            kept = (order >= round(share * zeros)).reshape(weights.shape)
        sparse = np.where(kept, found + gap, 0.0)
        gap += found - sparse
        found = inverse @ (product + sparse - gap)
    return solved(power, wanted, sparse / scale, kept)


def rounded(power: np.ndarray, wanted: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
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
    found = solved(power, wanted, weights, kept)
    values = means(found, count)
    between = (values[1:] + values[:-1]) / 2
    found = np.where(kept, values[np.searchsorted(between, found)], 0.0)
    for _ in range(_SWEEPS):
        for start in range(0, len(found), _BLOCK):
            block = slice(start, start + _BLOCK)
            inside, rest = power[block, block], wanted[block] - power[block] @ found
            for row, mine in enumerate(found[block]):
                best = values[np.searchsorted(between, mine + rest[row] / inside[row, row])]
                best = np.where(kept[start + row], best, 0.0)
                rest -= np.outer(inside[row], best - mine)
                mine[:] = best
    return found


def means(weights: np.ndarray, count: int) -> np.ndarray:
    """Values that are nearest to weights of any shape, by k-means: so many at most, ascending.

    Zero is one of them where it is one of the weights.
    """
    from sklearn.cluster import KMeans

    there = weights[weights != 0]
    zero = [0.0] * (there.size < weights.size)
    some = np.random.default_rng(0).permutation(there)[:20_000, None]
    found = KMeans(min(count - len(zero), len(np.unique(some))), n_init=1, random_state=0).fit(some).cluster_centers_
    return np.sort([*zero, *found.ravel()])
