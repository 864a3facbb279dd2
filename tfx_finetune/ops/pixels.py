"""What several components do to pixels, uint8 (..., channels)."""

import tensorflow as tf


def luma(pixels: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma of (..., 3), as (..., 1), in the integer arithmetic that Pillow uses."""
    weighted = tf.cast(pixels, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.cast((tf.reduce_sum(weighted, -1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def round_to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Floats as pixels: rounded, and cut to 0 to 255."""
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)
