"""Random rotation."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import rotation
from tfx_finetune.ops.geometry import follow, warp
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def rotate(degrees: float = 15.0) -> Augment:
    """Turns pictures about their centre; the pixels of the edge go on beyond it.

    Args:
        degrees: Most, in either direction, 0 to 180.
    """
    if not 0 <= degrees <= 180:
        raise UserError("the degrees of rotate are out of range", received=degrees, allowed="0 to 180")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        strength = tf.random.stateless_uniform((), seed, -1, 1)
        matrix = rotation(strength, tf.shape(sample["image"]), degrees)
        return follow(sample, matrix) | {"image": warp(sample["image"], matrix)}

    return apply
