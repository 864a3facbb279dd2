"""Pruning: unimportant weights become zero (Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.reconstruction import (
    KERNEL_LAYERS,
    Solver,
    admm_prune,
    reconstruct_layers,
    solve_least_squares,
)
from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression

Schedule = Literal["once", "polynomial"]
Pattern = Literal["unstructured", "2:4"]


@COMPRESSIONS.register
def prune(
    sparsity: float = 0.5,
    epochs: int = 4,
    learning_rate: float = 1e-4,
    schedule: Schedule = "once",
    block_size: tuple[int, int] = (1, 1),
    pattern: Pattern = "unstructured",
) -> Compression:
    """Set the least important weights of convolutions and dense layers to zero, and train the other weights.

    Depthwise kernels, biases and normalization stay unchanged. Exported files have the same size and compress better;
    the report has both sizes.

    Args:
        sparsity: float, above 0 and below 1. Fraction of zeros over all these kernels. Large kernels get a larger
            fraction than small ones. Default 0.5.
        epochs: int >= 0. Number of training epochs; 0 for no training, only with schedule `once`. Default 4.
        learning_rate: float > 0. Peak of the cosine schedule of the learning rate. Default 1e-4.
        schedule: `once`: weights are zero from the start; zeros and other weights are chosen together, so that each
            layer has nearly the same outputs as before. `polynomial`: the smallest weights become zero during the first
            half of training, from a fifth of the sparsity, with a cubic schedule. Default `once`.
        block_size: Height and width of the blocks of a dense kernel that are zero together, which are faster in some
            runtimes. Convolutions have single zeros, because TF-MOT supports blocks of matrices only. Default (1, 1).
        pattern: `unstructured`, or `2:4`: zeros at the two smallest of any four adjacent weights, as NVIDIA's sparse
            tensor cores need them, with sparsity 0.5 in every kernel. Default `unstructured`.
    """
    if not 0 < sparsity < 1:
        raise UserError("sparsity of prune() is out of range", got=sparsity, expected="above 0 and below 1")
    if pattern == "2:4" and (sparsity != 0.5 or tuple(block_size) != (1, 1)):
        got = f"sparsity={sparsity}, block_size={block_size}"
        raise UserError("Pattern 2:4 of prune() fixes sparsity and block_size", got=got, hint="Leave both out")
    if len(block_size) != 2 or min(block_size) < 1 or epochs < 0 or (not epochs and schedule == "polynomial"):
        raise UserError(
            "Option of prune() is out of range",
            got=f"block_size={block_size}, epochs={epochs}",
            expected="block_size of two numbers from 1; epochs from 0, from 1 with schedule='polynomial'",
        )
    block_shape = (block_size[0], block_size[1])

    def wrap(tf_keras_model: Any, steps: int, calibration_inputs: Sequence[np.ndarray], previous: Sequence[str]) -> Any:
        kernels = {layer.name: layer.kernel.numpy() for layer in tf_keras_model.layers if _is_prunable(layer, pattern)}
        num_zeros = _count_zeros(kernels, sparsity, uniform=pattern == "2:4")

        def choose_solver(layer: Any) -> Solver | None:
            if layer.name not in num_zeros or (block_shape != (1, 1) and type(layer).__name__ == "Dense"):
                return None  # unchanged, or TF-MOT selects the zeros
            if pattern == "2:4":
                return partial(solve_least_squares, keep_mask=_make_two_of_four_mask(layer.kernel.numpy()))
            return partial(admm_prune, num_zeros=num_zeros[layer.name])

        if schedule == "once":
            reconstruct_layers(tf_keras_model, choose_solver, calibration_inputs)
        return _wrap(tf_keras_model, steps, num_zeros, schedule, block_shape, pattern)

    # With schedule `once`, the weights of every epoch have the sparsity.
    return Compression(
        "prune",
        epochs,
        learning_rate,
        wrap,
        _strip,
        _make_callbacks,
        restore_best_weights=schedule == "once",
        sparsity=sparsity,
    )


def _is_prunable(layer: Any, pattern: str) -> bool:
    # The pattern 2:4 runs along the input channels, whose number has to be a multiple of 4; the first layer has 3.
    is_supported = type(layer).__name__ in KERNEL_LAYERS
    return is_supported and not (pattern == "2:4" and layer.kernel.shape[-2] % 4)


def _count_zeros(kernels: Mapping[str, np.ndarray], sparsity: float, uniform: bool) -> dict[str, int]:
    """Return the number of zeros of each kernel.

    The LAMP score of a weight is its square divided by the sum of the squares in its kernel that are not smaller (Lee
    et al., Layer-adaptive sparsity for the magnitude-based pruning, arXiv 2010.07611). The weights with the lowest
    scores over all kernels become zero.

    Args:
        kernels: Kernels by layer name.
        sparsity: float, above 0 and below 1. Fraction of zeros over all kernels.
        uniform: True for the same fraction of zeros in every kernel.
    """
    if uniform:
        return {name: round(sparsity * kernel.size) for name, kernel in kernels.items()}
    scores = {}
    for name, kernel in kernels.items():
        squares = np.sort(np.square(kernel.ravel().astype(np.float64)))
        scores[name] = squares / np.maximum(squares[::-1].cumsum()[::-1], 1e-30)
    threshold = np.quantile(np.concatenate(list(scores.values())), sparsity)
    return {name: min(int((score < threshold).sum()), score.size - 1) for name, score in scores.items()}


def _make_two_of_four_mask(kernel: np.ndarray) -> np.ndarray:
    """Return a mask (inputs, outputs) of the two largest of any four adjacent weights along the input channels."""
    fours = np.abs(kernel).reshape(*kernel.shape[:-2], -1, 4, kernel.shape[-1])
    return (fours.argsort(-2).argsort(-2) >= 2).reshape(-1, kernel.shape[-1])


def _wrap(
    tf_keras_model: Any,
    steps: int,
    num_zeros: Mapping[str, int],
    schedule: Schedule,
    block_size: tuple[int, int],
    pattern: Pattern,
) -> Any:
    """Return a copy of a model whose pruned layers keep their zeros in training.

    Args:
        tf_keras_model: The model.
        steps: Number of training steps.
        num_zeros: Number of zeros by layer name.
        schedule: Schedule of the sparsity.
        block_size: Height and width of the blocks of dense kernels.
        pattern: Pattern of the zeros.
    """
    import tf_keras
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import PruneLowMagnitude
    from tensorflow_model_optimization.sparsity import keras as sparse

    # Masks are updated often, because a run may have few steps, and until the end of the ramp only.
    ramp_steps = max(steps // 2, 1)
    frequency = max(ramp_steps // 20, 1)

    def wrap_layer(layer: Any) -> Any:
        if not num_zeros.get(layer.name):
            return layer
        sparsity = num_zeros[layer.name] / int(np.prod(layer.kernel.shape))
        pruning_schedule: Any = sparse.ConstantSparsity(sparsity, 0, frequency=frequency)
        if schedule == "polynomial":
            pruning_schedule = sparse.PolynomialDecay(sparsity / 5, sparsity, 0, ramp_steps, frequency=frequency)
        if pattern == "2:4":
            return sparse.prune_low_magnitude(layer, pruning_schedule, sparsity_m_by_n=(2, 4))
        is_dense = type(layer).__name__ == "Dense"
        return sparse.prune_low_magnitude(layer, pruning_schedule, block_size=block_size if is_dense else (1, 1))

    model = tf_keras.models.clone_model(tf_keras_model, clone_function=wrap_layer)
    if schedule == "once":
        # TF-MOT would prune at the first batch, so that kernels without reconstruction would have no zeros if epochs=0.
        for layer in model.layers:
            if isinstance(layer, PruneLowMagnitude):
                layer.pruning_step.assign(0)
                layer.pruning_obj.conditional_mask_update()
                layer.pruning_obj.weight_mask_op()
    return model


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    """Copy the trained weights to the tf_keras model."""
    from tensorflow_model_optimization.sparsity import keras as sparse

    tf_keras_bridge.copy_layer_weights(sparse.strip_pruning(wrapped_model), tf_keras_model)


def _make_callbacks() -> list[Any]:
    from tensorflow_model_optimization.sparsity import keras as sparse

    return [sparse.UpdatePruningStep()]
