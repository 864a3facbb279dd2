"""Scale jitter, large or small (Ghiasi et al., Simple Copy-Paste, arXiv 2012.07177, section 3)."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import MIN_VISIBLE, crop_window
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS

_MIN_SCALE = 0.1


@AUGMENTS.register
def scale_jitter(scale: tuple[float, float] = (0.5, 2.0), min_visible: float = MIN_VISIBLE) -> AugmentFn:
    """Shows a picture larger, of which then a part is seen, or smaller, with grey around it, its proportions kept.

    Preparing resizes it to the model's input. Of the grey, masks tell nothing.

    Args:
        scale: Range of the factor by which what is seen grows, 0.1 or more; all between are equally likely on a
            logarithmic scale. A picture takes 1 / factor^2 of its memory.
        min_visible: Objects of which a smaller share is seen become crowds, 0 to 1.
    """
    if len(scale) != 2 or not _MIN_SCALE <= scale[0] <= scale[1] or not 0 <= min_visible <= 1:
        received = f"scale={scale}, min_visible={min_visible}"
        raise UserError("zoom is out of range", got=received, expected="0.1 <= least <= most, and 0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        shape = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
        drawn = tf.random.stateless_uniform((3,), seed)
        low, high = math.log(scale[0]), math.log(scale[1])
        factor = tf.exp(low + drawn[0] * (high - low))
        size = tf.maximum(tf.round(shape / factor), 1)
        # The window lies anywhere inside of the picture, or around it.
        corner = tf.round(drawn[1:] * (shape - size))
        return crop_window(sample, tf.cast(corner, tf.int32), tf.cast(size, tf.int32), min_visible)

    return apply
