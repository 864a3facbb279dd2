"""Pruning: weights that matter little become zero (Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

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


@COMPRESSIONS.register
def prune(
    sparsity: float = 0.5,
    epochs: int = 4,
    learning_rate: float = 1e-4,
    schedule: Schedule = "once",
    block_size: tuple[int, int] = (1, 1),
    pattern: Literal["free", "2:4"] = "free",
) -> Compression:
    """Trains on while the weights of convolutions and dense layers that matter least are zero.

    Depthwise kernels, biases and normalization are left as they are. The files are as large as before and compress
    better; the report has both sizes.

    Args:
        sparsity: Share of the weights of all those kernels that is zero in the end, above 0 and below 1; large kernels
            lose more than small ones.
        epochs: Passes over the training samples; 0 trains nothing, and is not for `polynomial`.
        learning_rate: Peak of the cosine.
        schedule: `once`: they are zero from the start, chosen together with the other weights so that each layer gives
            nearly what it gave (`compression/reconstruction.py`). `polynomial`: the smallest become zero by and by, cubically from a
            fifth of the sparsity, until half-way.
        block: Height and width of the blocks of a dense kernel that are zero as a whole, which some runtimes are
            faster with. Kernels of convolutions lose single weights: TF-MOT knows blocks of matrices alone.
        pattern: `2:4`: the smaller two of any four weights in a row, as NVIDIA's sparse units take them; sets the
            sparsity to 0.5, of every kernel.
    """
    if not 0 < sparsity < 1:
        raise UserError("sparsity is out of range", got=sparsity, expected="above 0 and below 1")
    if pattern == "2:4" and (sparsity != 0.5 or tuple(block_size) != (1, 1)):
        raise UserError(
            "the pattern 2:4 sets sparsity and block itself", got=f"sparsity={sparsity}, block={block_size}"
        )
    if len(block_size) != 2 or min(block_size) < 1 or epochs < 0 or (not epochs and schedule == "polynomial"):
        raise UserError(
            "prune is out of range",
            got=f"block={block_size}, epochs={epochs}",
            expected="a block of two numbers from 1; epochs from 0, by and by from 1",
        )
    blocks = (block_size[0], block_size[1])

    def wrap(twin: Any, steps: int, examples: Sequence[np.ndarray], earlier: Sequence[str]) -> Any:
        layers = [layer for layer in twin.layers if _is_prunable(layer, pattern)]
        zeros = _count_zeros({layer.name: layer.kernel.numpy() for layer in layers}, sparsity, uniform=pattern == "2:4")

        def how(layer: Any) -> Solver | None:
            if layer.name not in zeros or (blocks != (1, 1) and type(layer).__name__ == "Dense"):
                return None  # as it is, or TF-MOT decides
            if pattern == "2:4":
                return partial(solve_least_squares, keep_mask=_make_two_of_four_mask(layer.kernel.numpy()))
            return partial(admm_prune, num_zeros=zeros[layer.name])

        if schedule == "once":
            reconstruct_layers(twin, how, examples)
        return _wrap(twin, steps, zeros, schedule, blocks, pattern)

    anytime = schedule == "once"
    return Compression("prune", epochs, learning_rate, wrap, _strip, _make_callbacks, anytime, sparsity=sparsity)


def _is_prunable(layer: Any, pattern: str) -> bool:
    # Two in four is a pattern along the input channels, of which the first layer has three.
    known = type(layer).__name__ in KERNEL_LAYERS
    return known and not (pattern == "2:4" and layer.kernel.shape[-2] % 4)


def _count_zeros(kernels: Mapping[str, np.ndarray], sparsity: float, uniform: bool) -> dict[str, int]:
    """How many weights of each kernel are zero in the end: of all the share that is asked for.

    Unless each shall have the same, that is where a weight's square is least beside the squares of those of its kernel
    that are not smaller (LAMP: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, arXiv 2010.07611):
    wide kernels have many weights to spare, narrow ones few.
    """
    if uniform:
        return {name: round(sparsity * kernel.size) for name, kernel in kernels.items()}
    scores = {}
    for name, kernel in kernels.items():
        squares = np.sort(np.square(kernel.ravel().astype(np.float64)))
        scores[name] = squares / np.maximum(squares[::-1].cumsum()[::-1], 1e-30)
    least = np.quantile(np.concatenate(list(scores.values())), sparsity)
    return {name: min(int((score < least).sum()), score.size - 1) for name, score in scores.items()}


def _make_two_of_four_mask(kernel: np.ndarray) -> np.ndarray:
    """The larger two of any four weights along the input channels (inputs, outputs)."""
    fours = np.abs(kernel).reshape(*kernel.shape[:-2], -1, 4, kernel.shape[-1])
    return (fours.argsort(-2).argsort(-2) >= 2).reshape(-1, kernel.shape[-1])


def _wrap(
    tf_keras_model: Any,
    steps: int,
    zeros: Mapping[str, int],
    schedule: Schedule,
    block_size: tuple[int, int],
    pattern: str,
) -> Any:
    import tf_keras
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import PruneLowMagnitude
    from tensorflow_model_optimization.sparsity import keras as sparse

    # Masks are renewed often, for a run may have few steps; and until the end of the ramp only.
    ramp = max(steps // 2, 1)
    often = max(ramp // 20, 1)

    def wrapped(layer: Any) -> Any:
        if not zeros.get(layer.name):
            return layer
        share = zeros[layer.name] / int(np.prod(layer.kernel.shape))
        growing: Any = sparse.ConstantSparsity(share, 0, frequency=often)
        if schedule == "polynomial":
            growing = sparse.PolynomialDecay(share / 5, share, 0, ramp, frequency=often)
        if pattern == "2:4":
            return sparse.prune_low_magnitude(layer, growing, sparsity_m_by_n=(2, 4))
        kind = type(layer).__name__
        return sparse.prune_low_magnitude(layer, growing, block_size=block_size if kind == "Dense" else (1, 1))

    model = tf_keras.models.clone_model(tf_keras_model, clone_function=wrapped)
    if schedule == "once":
        # TF-MOT would begin with the first batch: kernels that were not refitted would be whole without training.
        for layer in model.layers:
            if isinstance(layer, PruneLowMagnitude):
                layer.pruning_step.assign(0)
                layer.pruning_obj.conditional_mask_update()
                layer.pruning_obj.weight_mask_op()
    return model


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    from tensorflow_model_optimization.sparsity import keras as sparse

    for layer in sparse.strip_pruning(wrapped_model).layers:
        tf_keras_model.get_layer(layer.name).set_weights(layer.get_weights())


def _make_callbacks() -> list[Any]:
    from tensorflow_model_optimization.sparsity import keras as sparse

    return [sparse.UpdatePruningStep()]
