"""RandAugment (Cubuk et al., arXiv 1909.13719)."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import RAND_AUGMENT, matrix_of, one_of
from tfx_finetune.ops.geometry import follow
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def rand_augment(operations: int = 2, magnitude: float = 7.0) -> Augment:
    """Applies some operations out of 13, drawn for each sample: turning, shearing, colours, and so on.

    Args:
        operations: How many, one after the other, 1 or more.
        magnitude: How strong, 0 to 10.
    """
    if operations < 1 or not 0 <= magnitude <= 10:
        received = f"operations={operations}, magnitude={magnitude}"
        raise UserError("rand_augment is out of range", received=received, allowed="1 or more, and 0 to 10")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        for position in range(operations):
            drawn = tf.random.experimental.stateless_fold_in(seed, position)
            pixels = sample["image"]
            sample = follow(sample, matrix_of(RAND_AUGMENT, tf.shape(pixels), magnitude, drawn))
            sample |= {"image": one_of(RAND_AUGMENT, pixels, magnitude, drawn)}
        return sample

    return apply
