"""RandAugment (Cubuk et al., arXiv 1909.13719)."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import RAND_AUGMENT, apply_random_operation, make_random_operation_matrix
from tfx_finetune.ops.geometry import warp_annotations
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def rand_augment(operations: int = 2, magnitude: float = 7.0) -> AugmentFn:
    """Applies some operations out of 13, drawn for each sample: turning, shearing, colours, and so on.

    Args:
        operations: How many, one after the other, 1 or more.
        magnitude: How strong, 0 to 10.
    """
    if operations < 1 or not 0 <= magnitude <= 10:
        received = f"operations={operations}, magnitude={magnitude}"
        raise UserError("rand_augment is out of range", got=received, expected="1 or more, and 0 to 10")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        for position in range(operations):
            drawn = tf.random.experimental.stateless_fold_in(seed, position)
            pixels = sample["image"]
            sample = warp_annotations(
                sample, make_random_operation_matrix(RAND_AUGMENT, tf.shape(pixels), magnitude, drawn)
            )
            sample |= {"image": apply_random_operation(RAND_AUGMENT, pixels, magnitude, drawn)}
        return sample

    return apply
