"""BMP with palettes, in TensorFlow operations (the BITMAPINFOHEADER family of formats)."""

import tensorflow as tf

from tfx_finetune.datasets.modalities.header import read_integer


def decode_bmp(raw: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP of 1, 4 or 8 bits with a palette, or of 24 or 32 bits, uncompressed.

    Args:
        raw: Scalar string with a BMP.

    Returns:
        uint8 (height, width, 4); opaque where the file has no alpha.
    """
    depth, compression = read_integer(raw, 28, 2), read_integer(raw, 30, 4)
    plain = (compression == 0) | ((compression == 3) & (depth == 32))
    with tf.control_dependencies([tf.debugging.Assert(plain, ["a compressed BMP"])]):
        return tf.cond(depth <= 8, lambda: _decode_palette(raw, depth), lambda: _decode_true_color(raw))


def _decode_true_color(raw: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_bmp(raw)
    opaque = tf.fill(tf.concat([tf.shape(pixels)[:2], [1]], 0), tf.constant(255, tf.uint8))
    # The fourth byte is alpha only where a version 4 header says so; elsewhere it is padding, mostly zero.
    alpha = (tf.shape(pixels)[-1] == 4) & (read_integer(raw, 14, 4) >= 108) & (read_integer(raw, 66, 4) != 0)
    full = tf.cond(alpha, lambda: pixels, lambda: tf.concat([pixels[..., :3], opaque], -1))
    return tf.ensure_shape(full, (None, None, 4))


def _decode_palette(raw: tf.Tensor, depth: tf.Tensor) -> tf.Tensor:
    width, height = read_integer(raw, 18, 4), read_integer(raw, 22, 4)
    start, head, used = read_integer(raw, 10, 4), read_integer(raw, 14, 4), read_integer(raw, 46, 4)
    depth = tf.maximum(depth, 1)
    colours = tf.where(used > 0, used, tf.bitwise.left_shift(1, depth))
    palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(raw, 14 + head, 4 * colours), tf.uint8), (-1, 4))
    rows = tf.abs(height)
    stride = (width * depth + 31) // 32 * 4
    whole = tf.debugging.Assert(tf.strings.length(raw) >= start + stride * rows, ["truncated or corrupt BMP"])
    with tf.control_dependencies([whole]):
        raw = tf.identity(raw)
    data = tf.reshape(tf.io.decode_raw(tf.strings.substr(raw, start, stride * rows), tf.uint8), (rows, stride, 1))
    # Several pixels share a byte, the leftmost in its highest bits.
    each = 8 // depth
    shifts = 8 - depth * (1 + tf.range(each))
    mask = tf.bitwise.left_shift(1, depth) - 1
    indices = tf.bitwise.right_shift(tf.cast(data, tf.int32), shifts) & mask
    indices = tf.reshape(indices, (rows, stride * each))[:, :width]
    indices = tf.where(height > 0, indices[::-1], indices)
    blue_green_red = tf.gather(palette[:, :3], indices)
    return tf.concat([blue_green_red[..., ::-1], tf.fill((rows, width, 1), tf.constant(255, tf.uint8))], -1)
