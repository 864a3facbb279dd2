"""Random resized crops (Szegedy et al., Going Deeper with Convolutions, arXiv 1409.4842, section 6)."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import MIN_VISIBLE, crop_window
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def random_resized_crop(
    scale: tuple[float, float] = (0.6, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333),
    min_visible: float = MIN_VISIBLE,
) -> AugmentFn:
    """Keeps a random rectangle of a picture; preparing it resizes it to the model's input.

    Args:
        scale: Range of the rectangle's area as a share of the picture's, within 0 to 1.
        ratio: Range of its width divided by its height, relative to the picture's own, above 0.
        min_visible: Objects of which a smaller share is inside the rectangle become crowds, 0 to 1.
    """
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        allowed = "0 < least <= most, and scale up to 1"
        raise UserError("the ranges of crop are not ranges", got=f"scale={scale}, ratio={ratio}", expected=allowed)
    if not 0 <= min_visible <= 1:
        raise UserError("min_visible of crop is out of range", got=min_visible, expected="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        shape = tf.shape(sample["image"])[:2]
        area, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
        area = scale[0] + area * (scale[1] - scale[0])
        # The proportions are drawn on a logarithmic scale, so that wide and tall are equally likely.
        low, high = math.log(ratio[0]), math.log(ratio[1])
        wide = tf.exp((low + aspect * (high - low)) / 2)
        share = tf.minimum(tf.sqrt(area) * tf.stack([1 / wide, wide]), 1.0)
        size = tf.maximum(tf.cast(tf.round(share * tf.cast(shape, tf.float32)), tf.int32), 1)
        room = tf.cast(shape - size + 1, tf.float32)
        corner = tf.cast(tf.stack([top, left]) * room, tf.int32)
        return crop_window(sample, corner, size, min_visible)

    return apply
