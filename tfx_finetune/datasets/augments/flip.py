"""Mirror images."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import mirrored, moved
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def flip(probability: float = 0.5) -> Augment:
    """Mirrors pictures left to right.

    Args:
        probability: Share of the samples that are mirrored, 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise UserError("the probability of flip is out of range", received=probability, allowed="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        drawn = tf.random.stateless_uniform((), seed) < probability
        parts = moved(sample)
        return sample | tf.cond(drawn, lambda: mirrored(parts), lambda: parts)

    return apply
