"""Numbers in the bytes of a file, in TensorFlow operations."""

import tensorflow as tf


def read_integer(raw: tf.Tensor, position: int | tf.Tensor, size: int, byte_order: str = "little") -> tf.Tensor:
    """Reads an unsigned integer of `size` bytes (a signed one where `size` is 4) as int32; 0 behind the end."""
    values = tf.cast(tf.io.decode_raw(tf.strings.substr(_pad_bytes(raw, position), 0, size), tf.uint8), tf.int32)
    shifts = tf.range(size) * 8
    return tf.reduce_sum(tf.bitwise.left_shift(values, shifts if byte_order == "little" else shifts[::-1]))


def _pad_bytes(raw: tf.Tensor, position: int | tf.Tensor) -> tf.Tensor:
    length = tf.strings.length(raw)
    start = tf.minimum(tf.cast(position, tf.int32), length)
    return tf.strings.join([tf.strings.substr(raw, start, 4), b"\0\0\0\0"])
