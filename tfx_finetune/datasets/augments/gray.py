"""Colours taken away."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import apply_with_probability, convert_to_grayscale
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def random_grayscale(probability: float = 0.2) -> AugmentFn:
    """Makes pictures grey.

    Args:
        probability: Share of the samples, 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise UserError("the probability of gray is out of range", got=probability, expected="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        return apply_with_probability(sample, seed, probability, convert_to_grayscale)

    return apply
