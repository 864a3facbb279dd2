"""EXIF orientation (CIPA DC-008, tag 0x0112) in TensorFlow operations."""

import functools

import tensorflow as tf

from tfx_finetune.datasets.modalities.header import read_integer
from tfx_finetune.ops.tf_data import make_noinline_function


def apply_orientation(pixels: tf.Tensor, block: tf.Tensor, marker: bytes, length: int) -> tf.Tensor:
    """Turns a picture as the EXIF block in `block` says.

    Args:
        pixels: uint8 (height, width, 3).
        block: Scalar string, the part of the file in which the block may stand.
        marker: What the block begins with.
        length: Bytes from the marker to the TIFF header that the block consists of.
    """
    parts = tf.strings.split(block, marker, maxsplit=1)
    turned = tf.cond(
        tf.shape(parts)[0] > 1,
        lambda: _apply_tiff_orientation(pixels, tf.strings.substr(parts[1], length - len(marker), 2**16)),
        lambda: pixels,
    )
    return tf.ensure_shape(turned, (None, None, 3))


@functools.partial(
    make_noinline_function, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.string)]
)
def _apply_tiff_orientation(pixels: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    return _orient(pixels, read_orientation(tiff))


def read_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Reads the orientation, 1 to 8, from a TIFF header and its first directory; 1 where there is none."""
    # WebP files written by some tools repeat the JPEG marker in front of the header.
    tiff = tf.cond(
        tf.strings.substr(tiff, 0, 6) == b"Exif\0\0", lambda: tf.strings.substr(tiff, 6, 2**16), lambda: tiff
    )
    return tf.cond(
        tf.strings.substr(tiff, 0, 2) == b"MM",
        lambda: _read_orientation(tiff, "big"),
        lambda: _read_orientation(tiff, "little"),
    )


def _read_orientation(tiff: tf.Tensor, byte_order: str) -> tf.Tensor:
    directory = tf.clip_by_value(read_integer(tiff, 4, 4, byte_order), 0, tf.strings.length(tiff))
    content = tf.strings.substr(
        tiff, tf.minimum(directory + 2, tf.strings.length(tiff)), 12 * read_integer(tiff, directory, 2, byte_order)
    )
    whole = tf.strings.length(content) // 12 * 12
    entries = tf.reshape(tf.io.decode_raw(tf.strings.substr(content, 0, whole), tf.uint8), (-1, 12))
    entries = tf.cast(entries, tf.int32)
    high, low = (0, 1) if byte_order == "big" else (1, 0)
    tags = 256 * entries[:, high] + entries[:, low]
    values = 256 * entries[:, 8 + high] + entries[:, 8 + low]
    value = tf.reduce_max(tf.where(tags == 0x0112, values, 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _orient(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    swapped = tf.transpose(pixels, (1, 0, 2))
    # Several times as fast as slices with a step of -1.
    turns = [
        lambda: pixels,
        lambda: tf.reverse(pixels, [1]),
        lambda: tf.reverse(pixels, [0, 1]),
        lambda: tf.reverse(pixels, [0]),
        lambda: swapped,
        lambda: tf.reverse(swapped, [1]),
        lambda: tf.reverse(swapped, [0, 1]),
        lambda: tf.reverse(swapped, [0]),
    ]
    return tf.switch_case(orientation - 1, turns)
