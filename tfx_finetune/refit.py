"""What is left of a kernel takes over what was taken from it: least squares on calibration samples, layer by layer.

Magnitude alone says what may go, and training brings the rest back; but a network loses less, and needs less training,
where the weights that stay are set to what gives the same outputs without the others (Hassibi and Stork, Optimal brain
surgeon, NIPS 1992; Hubara et al., Accelerated sparse neural training, arXiv 2102.08124, for whole networks).
"""

from collections.abc import Callable
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


def refit(twin: Any, keep: Callable[[Any], np.ndarray | None], examples: np.ndarray) -> None:
    """Sets weights of a tf_keras network to zero, and the others so that each layer gives what it gave.

    A layer is fitted to its outputs in the whole network, on its inputs in the network so far, so that it also mends
    what the layers before it lost.

    Args:
        twin: A functional model; changed in place.
        keep: A layer of `KERNELS` -> which weights of its kernel stay, of the kernel's shape; None leaves it alone.
        examples: Prepared samples (n, ...).
    """
    samples = examples[:: -(-len(examples) // _SAMPLES)].astype(np.float32)
    counts = dict(twin._tensor_usage_count)
    # Each value is there as often as it is used, and gone when it is not needed any more.
    (source,) = (str(id(tensor)) for tensor in twin.inputs)
    whole, now = ({source: [tf.constant(samples)] * counts[source]} for _ in range(2))
    for depth in sorted(twin._nodes_by_depth, reverse=True):
        for node in twin._nodes_by_depth[depth]:
            if node.is_input:
                continue
            before, after = (node.map_arguments(values) for values in (whole, now))
            wanted = node.layer(*before[0], **before[1])
            stays = keep(node.layer) if type(node.layer).__name__ in KERNELS else None
            if stays is not None:
                _fit(node.layer, after[0][0], wanted, stays)
            found = node.layer(*after[0], **after[1])
            for values, outputs in ((whole, wanted), (now, found)):
                for name, tensor in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    values[str(name)] = [tensor] * counts[str(name)]


def _fit(layer: Any, inputs: tf.Tensor, wanted: tf.Tensor, stays: np.ndarray) -> None:
    """Gives a layer the weights that stay."""
    kernel = layer.kernel.numpy()
    if kernel.ndim == 4:
        height, width = kernel.shape[:2]
        inputs = tf.image.extract_patches(
            inputs, [1, height, width, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1], layer.padding.upper()
        )
    rows, outputs = (tf.reshape(tensor, (-1, tensor.shape[-1])).numpy() for tensor in (inputs, wanted))
    some = np.random.default_rng(0).permutation(len(rows))[:_ROWS]
    rows = np.concatenate([rows[some], np.ones((len(some), 1))], 1, dtype=np.float64)
    weights = np.concatenate([kernel.reshape(-1, kernel.shape[-1]), layer.bias.numpy()[None]], dtype=np.float64)
    kept = np.concatenate([stays.reshape(-1, kernel.shape[-1]), np.ones((1, kernel.shape[-1]), bool)])
    fitted = solved(rows, outputs[some].astype(np.float64), weights, kept)
    layer.set_weights([fitted[:-1].reshape(kernel.shape), fitted[-1]])


def solved(rows: np.ndarray, outputs: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Weights, zero where they are not kept, for which `rows @ weights` is near `outputs`.

    Args:
        rows: Inputs (n, inputs).
        outputs: (n, outputs).
        weights: As they were (inputs, outputs); they decide where the rows do not.
        kept: Which of them stay, the last one among them, likewise.
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
