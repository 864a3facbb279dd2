"""What objectives share: which samples of a batch count, and what their options allow."""

from typing import Any

import keras

from tfx_finetune.core.errors import UserError


def scale_to_masked_mean(losses: Any, mask: Any) -> Any:
    """Losses (batch,) whose mean over the batch is that of the samples that are `counted`, (batch,) of booleans."""
    ops = keras.ops
    mask = ops.cast(mask, losses.dtype)
    return losses * mask * ops.cast(ops.size(mask), losses.dtype) / ops.maximum(ops.sum(mask), 1)


def check_weight(name: str, weight: float) -> None:
    """Raises a `UserError` where a weight is not above 0."""
    if not weight > 0:
        raise UserError(f"the weight of {name} is out of range", got=weight, expected="above 0")
