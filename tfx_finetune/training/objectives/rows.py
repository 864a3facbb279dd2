"""What objectives share: which samples of a batch count, and what their options allow."""

from typing import Any

import keras

from tfx_finetune.core.errors import UserError


def over_counted(losses: Any, counted: Any) -> Any:
    """Losses (batch,) whose mean over the batch is that of the samples that are `counted`, (batch,) of booleans."""
    ops = keras.ops
    counted = ops.cast(counted, losses.dtype)
    return losses * counted * ops.cast(ops.size(counted), losses.dtype) / ops.maximum(ops.sum(counted), 1)


def check_weight(name: str, weight: float) -> None:
    """Raises a `UserError` where a weight is not above 0."""
    if not weight > 0:
        raise UserError(f"the weight of {name} is out of range", received=weight, allowed="above 0")
