"""Random rotation."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import make_rotation_matrix
from tfx_finetune.ops.geometry import warp, warp_annotations
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def rotate(degrees: float = 15.0) -> AugmentFn:
    """Turns pictures about their centre; the pixels of the edge go on beyond it.

    Args:
        degrees: Most, in either direction, 0 to 180.
    """
    if not 0 <= degrees <= 180:
        raise UserError("the degrees of rotate are out of range", got=degrees, expected="0 to 180")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        strength = tf.random.stateless_uniform((), seed, -1, 1)
        matrix = make_rotation_matrix(strength, tf.shape(sample["image"]), degrees)
        return warp_annotations(sample, matrix) | {"image": warp(sample["image"], matrix)}

    return apply
