"""Colours taken away."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import grey, sometimes
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def gray(probability: float = 0.2) -> Augment:
    """Makes pictures grey.

    Args:
        probability: Share of the samples, 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise UserError("the probability of gray is out of range", received=probability, allowed="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        return sometimes(sample, seed, probability, grey)

    return apply
