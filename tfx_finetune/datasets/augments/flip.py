"""Mirror images."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import flip_horizontal, select_movable_fields
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def flip(probability: float = 0.5) -> AugmentFn:
    """Mirrors pictures left to right.

    Args:
        probability: Share of the samples that are mirrored, 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise UserError("the probability of flip is out of range", got=probability, expected="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        drawn = tf.random.stateless_uniform((), seed) < probability
        parts = select_movable_fields(sample)
        return sample | tf.cond(drawn, lambda: flip_horizontal(parts), lambda: parts)

    return apply
