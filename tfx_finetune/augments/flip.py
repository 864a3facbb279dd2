"""Mirror images."""

from typing import Any

import tensorflow as tf

from tfx_finetune.augments.operations import sometimes
from tfx_finetune.contracts import AUGMENTS, Augment
from tfx_finetune.core.errors import UserError


@AUGMENTS.register
def flip(probability: float = 0.5) -> Augment:
    """Mirrors pictures left to right.

    Args:
        probability: Share of the samples that are mirrored, 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise UserError("the probability of flip is out of range", received=probability, allowed="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        return sometimes(sample, seed, probability, lambda pixels: pixels[:, ::-1])

    return apply
