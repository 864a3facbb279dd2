"""Pruning: the smallest weights become zero (Zhu and Gupta, To prune, or not to prune, arXiv 1710.01878)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tfx_finetune.contracts import COMPRESSIONS
from tfx_finetune.core.errors import UserError
from tfx_finetune.deployed import Compression
from tfx_finetune.refit import KERNELS, refit

Schedule = Literal["once", "polynomial"]


@COMPRESSIONS.register
def prune(
    sparsity: float = 0.5,
    epochs: int = 4,
    learning_rate: float = 1e-4,
    schedule: Schedule = "once",
    block: tuple[int, int] = (1, 1),
    pattern: Literal["free", "2:4"] = "free",
) -> Compression:
    """Trains on while the weights of convolutions and dense layers that are smallest in size are zero.

    Depthwise kernels, biases and normalization are left as they are. The files are as large as before and compress
    better; the report has both sizes.

    Args:
        sparsity: Share of each kernel's weights that is zero in the end.
        epochs: Passes over the training samples; 0 trains nothing.
        learning_rate: Peak of the cosine.
        schedule: `once`: they are zero from the start, and the other weights are first set to what gives each layer's
            outputs without them (`refit.py`). `polynomial`: they become zero by and by, cubically from a fifth of the
            sparsity, until half-way.
        block: Height and width of the blocks of a dense kernel that are zero as a whole, which some runtimes are
            faster with. Kernels of convolutions lose single weights: TF-MOT knows blocks of matrices alone.
        pattern: `2:4`: two of any four weights in a row, as NVIDIA's sparse units take them; sets the sparsity to 0.5.
    """
    if not 0 < sparsity < 1:
        raise UserError("sparsity is out of range", received=sparsity, allowed="above 0 and below 1")
    if pattern == "2:4" and (sparsity != 0.5 or tuple(block) != (1, 1)):
        raise UserError(
            "the pattern 2:4 sets sparsity and block itself", received=f"sparsity={sparsity}, block={block}"
        )
    if len(block) != 2 or min(block) < 1 or epochs < 0 or (not epochs and schedule == "polynomial"):
        raise UserError(
            "prune is out of range",
            received=f"block={block}, epochs={epochs}",
            allowed="a block of two numbers from 1; epochs from 0, by and by from 1",
        )
    blocks = (block[0], block[1])

    def wrap(twin: Any, steps: int, examples: Sequence[np.ndarray], earlier: Sequence[str]) -> Any:
        if schedule == "once":
            refit(twin, lambda layer: _kept(layer, sparsity, blocks, pattern), examples)
        return _wrap(twin, steps, sparsity, schedule, blocks, pattern)

    anytime = schedule == "once"
    return Compression("prune", epochs, learning_rate, wrap, _strip, _callbacks, anytime, sparsity=sparsity)


def _kept(layer: Any, sparsity: float, block: tuple[int, int], pattern: str) -> np.ndarray | None:
    """Which weights of a kernel stay; None where TF-MOT decides, or none goes."""
    sizes = np.abs(layer.kernel.numpy())
    if not _prunable(layer, pattern) or (sizes.ndim == 2 and block != (1, 1)):
        return None
    if pattern == "2:4":
        fours = sizes.reshape(*sizes.shape[:-2], -1, 4, sizes.shape[-1])
        return (fours.argsort(-2).argsort(-2) >= 2).reshape(sizes.shape)
    order = sizes.ravel().argsort().argsort()
    return (order >= round(sparsity * sizes.size)).reshape(sizes.shape)


def _prunable(layer: Any, pattern: str) -> bool:
    # Two in four is a pattern along the input channels, of which the first layer has three.
    known = type(layer).__name__ in KERNELS
    return known and not (pattern == "2:4" and layer.kernel.shape[-2] % 4)


def _wrap(twin: Any, steps: int, sparsity: float, schedule: str, block: tuple[int, int], pattern: str) -> Any:
    import tf_keras
    from tensorflow_model_optimization.sparsity import keras as sparse

    # Masks are renewed often, for a run may have few steps; and until the end of the ramp only.
    ramp = max(steps // 2, 1)
    often = max(ramp // 20, 1)
    growing: Any = sparse.ConstantSparsity(sparsity, 0, frequency=often)
    if schedule == "polynomial":
        growing = sparse.PolynomialDecay(sparsity / 5, sparsity, 0, ramp, frequency=often)

    def wrapped(layer: Any) -> Any:
        if not _prunable(layer, pattern):
            return layer
        if pattern == "2:4":
            return sparse.prune_low_magnitude(layer, growing, sparsity_m_by_n=(2, 4))
        kind = type(layer).__name__
        return sparse.prune_low_magnitude(layer, growing, block_size=block if kind == "Dense" else (1, 1))

    return tf_keras.models.clone_model(twin, clone_function=wrapped)


def _strip(wrapped: Any, twin: Any) -> None:
    from tensorflow_model_optimization.sparsity import keras as sparse

    for layer in sparse.strip_pruning(wrapped).layers:
        twin.get_layer(layer.name).set_weights(layer.get_weights())


def _callbacks() -> list[Any]:
    from tensorflow_model_optimization.sparsity import keras as sparse

    return [sparse.UpdatePruningStep()]
