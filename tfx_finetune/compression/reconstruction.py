"""Layer-wise reconstruction: sparse or clustered weights that nearly preserve the outputs of a layer.

Pruning and clustering by magnitude alone need much training afterwards. A network loses far less if the weights of each
layer reproduce its outputs on calibration samples (Hassibi and Stork, Optimal brain surgeon, NIPS 1992; Hubara et al.,
Accelerated sparse neural training, arXiv 2102.08124, for whole networks). `admm_prune` and `quantease` find such
weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress

KERNEL_LAYERS = ("Conv2D", "Dense")
NUM_SAMPLES = 192
"""Number of training samples on which layers are reconstructed. On Tux Paint's stamps, the outputs of a pruned network
are twice as far (KL divergence) from the original outputs with 64 samples, and no closer with 580."""
# Number of positions in the feature maps of all samples on which a kernel is fitted.
_MAX_POSITIONS = 50_000
# The equations of a kernel with this many inputs take half a gigabyte. Kernels with more inputs stay unchanged.
_MAX_INPUTS = 8192
# Fraction of the mean power of the inputs that is added to each input. It keeps weights near their old values if there
# is little data.
_RIDGE = 0.05
# Conjugate gradients converge exactly after as many steps as a column has weights, and nearly long before.
_CG_STEPS = 60
# ADMM increases the number of zeros in the first half of the iterations, and settles in the second half.
_ADMM_ITERATIONS = 30
# Passes over the inputs of a kernel in quantease, and number of inputs per block update.
_SWEEPS, _BLOCK = 3, 128

Solver = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Function (gram, cross_gram, weights) -> new weights for which `gram @ new_weights` is close to `cross_gram`.

gram: float array (inputs, inputs), positive definite. Mean of inputs x inputs over positions.
cross_gram: float array (inputs, outputs). Mean of inputs x original outputs over positions.
weights: float array (inputs, outputs). Weights before.
"""


def reconstruct_layers(
    tf_keras_model: Any, choose_solver: Callable[[Any], Solver | None], calibration_inputs: Sequence[np.ndarray]
) -> None:
    """Replace the weights of layers so that each layer has nearly the same outputs as before.

    A layer is fitted to its outputs in the original network, on its inputs in the network with the new weights so far.
    So it also compensates the errors of the layers before it.

    Args:
        tf_keras_model: Functional model; changed in place.
        choose_solver: Function from a layer of `KERNEL_LAYERS` to its solver, or to None to leave the layer unchanged.
            Grouped convolutions and layers with more than 8,192 inputs per output always stay unchanged.
        calibration_inputs: Inputs (n, ...) of the model for calibration samples, in its order.
    """
    solvers = {
        layer.name: solver
        for layer in tf_keras_model.layers
        if _is_reconstructable(layer) and (solver := choose_solver(layer)) is not None
    }
    stride = -(-len(calibration_inputs[0]) // NUM_SAMPLES)
    samples = [tf.constant(x[::stride].astype(np.float32)) for x in calibration_inputs]
    usage_count = dict(tf_keras_model._tensor_usage_count)
    # A tensor is listed as often as it is used; each use removes it, so that memory is freed early.
    input_ids = [str(id(tensor)) for tensor in tf_keras_model.inputs]
    original, current = (
        {input_id: [x] * usage_count[input_id] for input_id, x in zip(input_ids, samples, strict=True)}
        for _ in range(2)
    )
    nodes = [
        node
        for depth in sorted(tf_keras_model._nodes_by_depth, reverse=True)
        for node in tf_keras_model._nodes_by_depth[depth]
    ]
    num_layers = len(solvers)
    with progress.bar("reconstruct", num_layers) as advance:
        for node in nodes:
            if node.is_input:
                continue
            original_args, current_args = (node.map_arguments(tensors) for tensors in (original, current))
            original_outputs = node.layer(*original_args[0], **original_args[1])
            # A layer that is called several times is fitted to its first call.
            if solver := solvers.pop(node.layer.name, None):
                _reconstruct_layer(node.layer, original_args[0][0], current_args[0][0], solver)
                advance(1, f"{num_layers} layers, {len(samples[0])} samples")
            current_outputs = node.layer(*current_args[0], **current_args[1])
            for tensors, outputs in ((original, original_outputs), (current, current_outputs)):
                for output_id, tensor in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    tensors[str(output_id)] = [tensor] * usage_count[str(output_id)]


def _is_reconstructable(layer: Any) -> bool:
    # The groups of a grouped convolution have different inputs.
    is_supported = type(layer).__name__ in KERNEL_LAYERS and getattr(layer, "groups", 1) == 1
    return is_supported and int(np.prod(layer.kernel.shape[:-1])) <= _MAX_INPUTS


def _reconstruct_layer(layer: Any, original_inputs: tf.Tensor, inputs: tf.Tensor, solver: Solver) -> None:
    """Replace the weights and the bias of a layer.

    The layer is fitted to its outputs before the activation.

    Args:
        layer: tf_keras layer of `KERNEL_LAYERS`.
        original_inputs: Inputs (n, ...) of the layer in the original network.
        inputs: Inputs (n, ...) of the layer in the network with the new weights so far.
        solver: Solver of the new weights.
    """
    kernel = layer.kernel.numpy()
    weights = kernel.reshape(-1, kernel.shape[-1])
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    rng, max_positions = np.random.default_rng(0), -(-_MAX_POSITIONS // len(inputs))
    count, gram, cross_gram = 0, np.zeros((len(weights),) * 2), np.zeros(weights.shape)
    input_mean, output_mean = np.zeros(len(weights)), np.zeros(weights.shape[1])
    # The patches of all samples together would need too much memory.
    for sample, original_sample in zip(inputs, original_inputs, strict=True):
        patches, original_patches = (
            tf.reshape(_extract_patches(layer, x[None]), (-1, len(weights))).numpy() for x in (sample, original_sample)
        )
        positions = rng.permutation(len(patches))[:max_positions]
        patches, outputs = patches[positions], original_patches[positions] @ weights + bias
        count += len(patches)
        input_mean, output_mean = input_mean + patches.sum(0), output_mean + outputs.sum(0)
        gram, cross_gram = gram + patches.T @ patches, cross_gram + patches.T @ outputs
    weights = weights.astype(np.float64)
    input_mean, output_mean, gram, cross_gram = (total / count for total in (input_mean, output_mean, gram, cross_gram))
    if layer.use_bias:
        # The bias reproduces the means of the outputs, so that the kernel has to fit the deviations only.
        gram -= np.outer(input_mean, input_mean)
        cross_gram -= np.outer(input_mean, output_mean)
    ridge = _RIDGE * np.diag(gram).mean() + 1e-12
    new_weights = solver(gram + ridge * np.eye(len(gram)), cross_gram + ridge * weights, weights)
    new_bias = [output_mean - input_mean @ new_weights] if layer.use_bias else []
    layer.set_weights([new_weights.reshape(kernel.shape), *new_bias])


def _extract_patches(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """Return the inputs of a kernel at each position, on the last axis."""
    if layer.kernel.shape.rank == 2:
        return inputs
    height, width = layer.kernel_size
    return tf.image.extract_patches(
        inputs, [1, height, width, 1], [1, *layer.strides, 1], [1, *layer.dilation_rate, 1], layer.padding.upper()
    )


def solve_least_squares(
    gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, keep_mask: np.ndarray
) -> np.ndarray:
    """Solve the least-squares problem for a fixed pattern of zeros, by conjugate gradients from the old weights.

    Args:
        gram: float array (inputs, inputs); see `Solver`.
        cross_gram: float array (inputs, outputs); see `Solver`.
        weights: float array (inputs, outputs); see `Solver`.
        keep_mask: bool array (inputs, outputs). False where the new weights are zero.
    """
    # All columns are solved at once; the mask gives each column its own matrix.
    preconditioner = 1 / np.diag(gram)[:, None]
    solution = np.where(keep_mask, weights, 0.0)
    residual = keep_mask * (cross_gram - gram @ solution)
    direction = preconditioner * residual
    squared_norm = (residual * direction).sum(0)
    for _ in range(_CG_STEPS):
        product = keep_mask * (gram @ direction)
        step_size = squared_norm / np.maximum((direction * product).sum(0), 1e-30)
        solution += step_size * direction
        residual -= step_size * product
        previous_norm, squared_norm = squared_norm, (residual * preconditioner * residual).sum(0)
        direction = preconditioner * residual + squared_norm / np.maximum(previous_norm, 1e-30) * direction
    return solution


def admm_prune(gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, num_zeros: int) -> np.ndarray:
    """Find weights with a number of zeros, by ADMM, which also chooses the positions of the zeros.

    Alternating direction method of multipliers (Boža, Fast and effective weight update for pruned large language
    models, arXiv 2401.02938). The number of zeros grows in the first half of the iterations.

    Args:
        gram: float array (inputs, inputs); see `Solver`.
        cross_gram: float array (inputs, outputs); see `Solver`.
        weights: float array (inputs, outputs); see `Solver`.
        num_zeros: Number of zeros.
    """
    # Inputs are scaled to the same power, so that small weights are unimportant weights.
    scale = np.sqrt(np.diag(gram))[:, None]
    solution, dual = weights * scale, np.zeros(weights.shape)
    # The identity is the penalty term of ADMM with penalty parameter 1.
    inverse, target = np.linalg.inv(gram / (scale * scale.T) + np.eye(len(gram))), cross_gram / scale
    keep_mask = np.ones(weights.shape, bool)
    for iteration in range(_ADMM_ITERATIONS):
        if iteration < _ADMM_ITERATIONS // 2:
            fraction = 1 - (1 - 2 * (iteration + 1) / _ADMM_ITERATIONS) ** 3
            rank = np.abs(solution + dual).ravel().argsort(kind="stable").argsort()
            keep_mask = (rank >= round(fraction * num_zeros)).reshape(weights.shape)
        sparse = np.where(keep_mask, solution + dual, 0.0)
        dual += solution - sparse
        solution = inverse @ (target + sparse - dual)
    return solve_least_squares(gram, cross_gram, sparse / scale, keep_mask)


def quantease(gram: np.ndarray, cross_gram: np.ndarray, weights: np.ndarray, max_values: int) -> np.ndarray:
    """Find weights with few distinct values, by coordinate descent.

    One input after the other, each weight gets the value that is best given all other weights; several passes
    (Behdin et al., QuantEase, arXiv 2309.01885). Zeros stay zeros. The values are centroids of k-means.

    Args:
        gram: float array (inputs, inputs); see `Solver`.
        cross_gram: float array (inputs, outputs); see `Solver`.
        weights: float array (inputs, outputs); see `Solver`.
        max_values: int >= 2. Maximum number of distinct values.
    """
    keep_mask = weights != 0
    if not keep_mask.any():  # the head was not trained
        return weights
    solution = solve_least_squares(gram, cross_gram, weights, keep_mask)
    values = fit_kmeans_centroids(solution, max_values)
    boundaries = (values[1:] + values[:-1]) / 2
    solution = np.where(keep_mask, values[np.searchsorted(boundaries, solution)], 0.0)
    for _ in range(_SWEEPS):
        for start in range(0, len(solution), _BLOCK):
            block = slice(start, start + _BLOCK)
            block_gram, residual = gram[block, block], cross_gram[block] - gram[block] @ solution
            for index, row in enumerate(solution[block]):
                best = values[np.searchsorted(boundaries, row + residual[index] / block_gram[index, index])]
                best = np.where(keep_mask[start + index], best, 0.0)
                residual -= np.outer(block_gram[index], best - row)
                row[:] = best
    return solution


def fit_kmeans_centroids(weights: np.ndarray, max_values: int) -> np.ndarray:
    """Fit the centroids of k-means to weights.

    Args:
        weights: float array of any shape.
        max_values: int >= 2. Maximum number of centroids.

    Returns:
        Centroids in ascending order; 0 is one of them if a weight is 0.
    """
    from sklearn.cluster import KMeans

    nonzero = weights[weights != 0]
    zero = [0.0] * (nonzero.size < weights.size)
    subset = np.random.default_rng(0).permutation(nonzero)[:20_000, None]
    num_clusters = min(max_values - len(zero), len(np.unique(subset)))
    kmeans = KMeans(num_clusters, n_init=1, random_state=0).fit(subset)
    return np.sort([*zero, *kmeans.cluster_centers_.ravel()])
