"""Random changes of brightness, contrast and saturation."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.pixels import round_to_uint8
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def color_jitter(brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> AugmentFn:
    """Changes the colours of pictures, each by a factor drawn between 1 - value and 1 + value.

    Args:
        brightness: Of all values, 0 to 1.
        contrast: Of the differences from the picture's mean, 0 to 1.
        saturation: Of the differences from grey, 0 to 1; without effect on grey pictures.
    """
    if not all(0 <= value <= 1 for value in (brightness, contrast, saturation)):
        received = f"{brightness}, {contrast}, {saturation}"
        raise UserError("color is out of range", got=received, expected="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        pixels = tf.cast(sample["image"], tf.float32)
        strengths = tf.constant([brightness, contrast, saturation], tf.float32)
        bright, strong, rich = tf.unstack(1 + strengths * tf.random.stateless_uniform((3,), seed, -1, 1))
        pixels *= bright
        mean = tf.reduce_mean(pixels, (0, 1), keepdims=True)
        pixels = mean + (pixels - mean) * strong
        if pixels.shape[-1] == 3:
            grey = tf.reduce_sum(pixels * [0.299, 0.587, 0.114], -1, keepdims=True)
            pixels = grey + (pixels - grey) * rich
        return sample | {"image": round_to_uint8(pixels)}

    return apply
