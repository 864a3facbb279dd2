"""What is left of a kernel takes over what was taken from it: least squares on calibration samples, layer by layer.

Magnitude alone says what may go, and training brings the rest back; but a network loses less, and needs less training,
where the weights that stay are set to what gives the same outputs without the others (Hassibi and Stork, Optimal brain
surgeon, NIPS 1992; Hubara et al., Accelerated sparse neural training, arXiv 2102.08124, for whole networks).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

KERNELS = ("Conv2D", "Dense")
# Positions of feature maps that a kernel is fitted on, and samples they are of.
_ROWS, _SAMPLES = 50_000, 64
# Share of the mean power of an input that is added to each: it holds weights near what they were where data is scarce.
_RIDGE = 1e-3
# Of conjugate gradients, which solve a column exactly after as many steps as it has weights, and nearly long before.
_STEPS = 60


def refit(twin: Any, keep: Callable[[Any], np.ndarray | None], examples: Sequence[np.ndarray]) -> None:
    """Sets weights of a tf_keras network to zero, and the others so that each layer gives what it gave.

    A layer is fitted to its outputs in the whole network, on its inputs in the network so far, so that it also mends
    what the layers before it lost.

    Args:
        twin: A functional model; changed in place.
        keep: A layer of `KERNELS`, of no groups and no activation, -> which weights of its kernel stay, of the kernel's
            shape; None leaves it alone.
        examples: What the model takes of samples, one (n, ...) an input.
    """
    step = -(-len(examples[0]) // _SAMPLES)
    samples = [tf.constant(x[::step].astype(np.float32)) for x in examples]
    counts = dict(twin._tensor_usage_count)
    # Each value is there as often as it is used, and gone when it is not needed any more.
    sources = [str(id(tensor)) for tensor in twin.inputs]
    whole, now = ({source: [x] * counts[source] for source, x in zip(sources, samples, strict=True)} for _ in range(2))
    for depth in sorted(twin._nodes_by_depth, reverse=True):
        for node in twin._nodes_by_depth[depth]:
            if node.is_input:
                continue
            before, after = (node.map_arguments(values) for values in (whole, now))
            wanted = node.layer(*before[0], **before[1])
            # The channels of a grouped convolution have inputs of their own.
            able = type(node.layer).__name__ in KERNELS and getattr(node.layer, "groups", 1) == 1
            stays = keep(node.layer) if able else None
            if stays is not None:
                _fit(node.layer, after[0][0], wanted, stays)
            found = node.layer(*after[0], **after[1])
            for values, outputs in ((whole, wanted), (now, found)):
                for name, tensor in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    values[str(name)] = [tensor] * counts[str(name)]


def _fit(layer: Any, inputs: tf.Tensor, wanted: tf.Tensor, stays: np.ndarray) -> None:
    """Gives a layer the weights that stay."""
    kernel = layer.kernel.numpy()
    width = kernel.shape[-1]
    rng, share = np.random.default_rng(0), -(-_ROWS // len(inputs))
    rows, outputs = [], []
    # Sample by sample: the patches of all would not fit into memory.
    for one, other in zip(inputs, wanted, strict=True):
        patches, targets = (tf.reshape(x, (-1, x.shape[-1])).numpy() for x in (_patches(layer, one[None]), other))
        some = rng.permutation(len(patches))[:share]
        rows.append(patches[some])
        outputs.append(targets[some])
    seen, sought, weights = np.concatenate(rows), np.concatenate(outputs), kernel.reshape(-1, width)
    kept = stays.reshape(-1, width)
    if layer.use_bias:
        # It is the weight of an input that is always 1.
        seen = np.concatenate([seen, np.ones((len(seen), 1))], 1)
        weights, kept = (
            np.concatenate([weights, layer.bias.numpy()[None]]),
            np.concatenate([kept, np.ones((1, width), bool)]),
        )
    fitted = solved(seen.astype(np.float64), sought.astype(np.float64), weights.astype(np.float64), kept)
    bias = [fitted[-1]] if layer.use_bias else []
    layer.set_weights([fitted[: kernel[..., 0].size].reshape(kernel.shape), *bias])


def _patches(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """What a kernel is multiplied with at each position, on the last axis."""
    if layer.kernel.shape.rank == 2:
        return inputs
    height, width = layer.kernel_size
    return tf.image.extract_patches(
        inputs, [1, height, width, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1], layer.padding.upper()
    )


def solved(rows: np.ndarray, outputs: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Weights, zero where they are not kept, for which `rows @ weights` is near `outputs`.

    Args:
        rows: Inputs (n, inputs).
        outputs: (n, outputs).
        weights: As they were (inputs, outputs); they decide where the rows do not.
        kept: Which of them stay, likewise.
    """
    power = rows.T @ rows / len(rows)
    ridge = _RIDGE * np.diag(power).mean()
    power += ridge * np.eye(len(power))
    # The equations of all columns at once: each has its own weights that stay, and so a matrix of its own.
    wanted = kept * (rows.T @ outputs / len(rows) + ridge * weights)
    scale = 1 / np.diag(power)[:, None]
    found = np.where(kept, weights, 0.0)
    rest = wanted - kept * (power @ found)
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
