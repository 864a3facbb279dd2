"""Parts of image formats that TensorFlow does not decode: EXIF orientation, transparent GIFs, and palettes of BMPs."""

import functools

import tensorflow as tf

from tfx_finetune.ops.tf_data import make_noinline_function

_BYTES = [bytes([value]) for value in range(256)]
# Color tables and extensions come first in a GIF, so the control block of the first frame is within these bytes.
_GIF_HEADER_BYTES = 4096
_EXIF_ORIENTATION_TAG = 0x0112


def read_integer(raw: tf.Tensor, position: int | tf.Tensor, size: int, byte_order: str = "little") -> tf.Tensor:
    """Read an integer from the bytes of a file.

    Args:
        raw: Scalar string.
        position: int. Offset of the first byte.
        size: int, 1 to 4. Number of bytes. An integer of 4 bytes is signed, a shorter one unsigned.
        byte_order: `little` or `big`. Default `little`.

    Returns:
        int32 scalar. Bytes behind the end of the file count as 0.

    Examples:
        >>> raw = tf.constant(b"\\x01\\x02")
        >>> int(read_integer(raw, 0, 2)), int(read_integer(raw, 0, 2, "big"))
        (513, 258)
    """
    values = tf.cast(tf.io.decode_raw(tf.strings.substr(_pad_bytes(raw, position), 0, size), tf.uint8), tf.int32)
    shifts = tf.range(size) * 8
    return tf.reduce_sum(tf.bitwise.left_shift(values, shifts if byte_order == "little" else shifts[::-1]))


def _pad_bytes(raw: tf.Tensor, position: int | tf.Tensor) -> tf.Tensor:
    length = tf.strings.length(raw)
    start = tf.minimum(tf.cast(position, tf.int32), length)
    return tf.strings.join([tf.strings.substr(raw, start, 4), b"\0\0\0\0"])


# ---- EXIF orientation (CIPA DC-008, tag 0x0112)


def apply_orientation(pixels: tf.Tensor, block: tf.Tensor, marker: bytes, header_offset: int) -> tf.Tensor:
    """Turn an image upright by its EXIF orientation.

    Args:
        pixels: uint8 (height, width, 3).
        block: Scalar string. Part of the file that may contain the EXIF block.
        marker: First bytes of the EXIF block.
        header_offset: int. Bytes from the start of the marker to the TIFF header.

    Returns:
        uint8 (height, width, 3); the pixels themselves if there is no EXIF block.
    """
    parts = tf.strings.split(block, marker, maxsplit=1)
    upright = tf.cond(
        tf.shape(parts)[0] > 1,
        lambda: _apply_tiff_orientation(pixels, tf.strings.substr(parts[1], header_offset - len(marker), 2**16)),
        lambda: pixels,
    )
    return tf.ensure_shape(upright, (None, None, 3))


@functools.partial(
    make_noinline_function, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.string)]
)
def _apply_tiff_orientation(pixels: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    return _orient(pixels, read_orientation(tiff))


def read_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Read the EXIF orientation from a TIFF header and its first directory.

    Args:
        tiff: Scalar string that starts with the TIFF header.

    Returns:
        int32 scalar, 1 to 8; 1 if there is no valid orientation.
    """
    # WebP files of some programs repeat the JPEG marker in front of the header.
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
    complete_length = tf.strings.length(content) // 12 * 12
    entries = tf.reshape(tf.io.decode_raw(tf.strings.substr(content, 0, complete_length), tf.uint8), (-1, 12))
    entries = tf.cast(entries, tf.int32)
    high, low = (0, 1) if byte_order == "big" else (1, 0)
    tags = 256 * entries[:, high] + entries[:, low]
    values = 256 * entries[:, 8 + high] + entries[:, 8 + low]
    value = tf.reduce_max(tf.where(tags == _EXIF_ORIENTATION_TAG, values, 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _orient(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    transposed = tf.transpose(pixels, (1, 0, 2))
    # tf.reverse is several times faster than slices with a step of -1.
    branches = [
        lambda: pixels,
        lambda: tf.reverse(pixels, [1]),
        lambda: tf.reverse(pixels, [0, 1]),
        lambda: tf.reverse(pixels, [0]),
        lambda: transposed,
        lambda: tf.reverse(transposed, [1]),
        lambda: tf.reverse(transposed, [0, 1]),
        lambda: tf.reverse(transposed, [0]),
    ]
    return tf.switch_case(orientation - 1, branches)


# ---- Transparency of GIF (CompuServe GIF89a)


def composite_transparency(raw: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """Make the transparent color of a GIF's first frame opaque and equal to the background.

    TensorFlow's decoder paints transparent pixels black and does not tell which pixels they are. The file itself is
    therefore edited: the color table entry becomes the background, and the transparency flag is cleared.

    Args:
        raw: Scalar string. Content of a GIF file.
        background: Red, green and blue, 0 to 255.

    Returns:
        Scalar string. Content of the edited file.
    """
    front = tf.io.decode_raw(tf.strings.substr(raw, 0, tf.minimum(_GIF_HEADER_BYTES, tf.strings.length(raw))), tf.uint8)
    values = tf.cast(front, tf.int32)
    control = _find_bytes(front, b"\x21\xf9\x04")
    has_control = (control >= 0) & (control + 18 < tf.shape(front)[0])

    def edit_file() -> tf.Tensor:
        index = values[control + 6]
        # A frame may have a local color table behind its descriptor.
        has_local_table = (values[control + 8] == 0x2C) & (values[control + 17] >= 0x80)
        entry = tf.where(has_local_table, control + 18, 13) + 3 * index
        positions = tf.concat([[control + 3], entry + tf.range(3)], 0)
        content = tf.concat([[values[control + 3] & 0xFE], tf.constant(background)], 0)
        inside = positions < tf.shape(front)[0]
        positions, content = tf.boolean_mask(positions, inside), tf.boolean_mask(content, inside)
        edited = tf.tensor_scatter_nd_update(values, positions[:, None], content)
        rest = tf.strings.substr(raw, tf.shape(front)[0], tf.strings.length(raw) - tf.shape(front)[0])
        return tf.strings.join([tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), edited)), rest])

    is_transparent = tf.cond(has_control, lambda: values[control + 3] & 1 == 1, lambda: False)
    return tf.cond(is_transparent, edit_file, lambda: raw)


def _find_bytes(data: tf.Tensor, pattern: bytes) -> tf.Tensor:
    """Return the int32 position of the first occurrence of a pattern in uint8 (n,), or -1."""
    count = tf.maximum(tf.shape(data)[0] - len(pattern) + 1, 0)
    is_match = tf.ones([count], tf.bool)
    for offset, value in enumerate(pattern):
        is_match &= data[offset : offset + count] == value
    return tf.where(tf.reduce_any(is_match), tf.argmax(tf.cast(is_match, tf.uint8), output_type=tf.int32), -1)


# ---- BMP with palettes (formats of the BITMAPINFOHEADER family)


def decode_bmp(raw: tf.Tensor) -> tf.Tensor:
    """Decode an uncompressed BMP of 1, 4 or 8 bits with a palette, or of 24 or 32 bits.

    Args:
        raw: Scalar string. Content of a BMP file.

    Returns:
        uint8 (height, width, 4), RGBA; opaque if the file has no alpha.
    """
    depth, compression = read_integer(raw, 28, 2), read_integer(raw, 30, 4)
    is_uncompressed = (compression == 0) | ((compression == 3) & (depth == 32))
    with tf.control_dependencies([tf.debugging.Assert(is_uncompressed, ["compressed BMP"])]):
        return tf.cond(depth <= 8, lambda: _decode_palette(raw, depth), lambda: _decode_true_color(raw))


def _decode_true_color(raw: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_bmp(raw)
    opaque = tf.fill(tf.concat([tf.shape(pixels)[:2], [1]], 0), tf.constant(255, tf.uint8))
    # The fourth byte is alpha only if a header of version 4 says so; otherwise it is padding, mostly zero.
    has_alpha = (tf.shape(pixels)[-1] == 4) & (read_integer(raw, 14, 4) >= 108) & (read_integer(raw, 66, 4) != 0)
    rgba = tf.cond(has_alpha, lambda: pixels, lambda: tf.concat([pixels[..., :3], opaque], -1))
    return tf.ensure_shape(rgba, (None, None, 4))


def _decode_palette(raw: tf.Tensor, depth: tf.Tensor) -> tf.Tensor:
    width, height = read_integer(raw, 18, 4), read_integer(raw, 22, 4)
    data_start, header_size, palette_size = read_integer(raw, 10, 4), read_integer(raw, 14, 4), read_integer(raw, 46, 4)
    depth = tf.maximum(depth, 1)
    num_colors = tf.where(palette_size > 0, palette_size, tf.bitwise.left_shift(1, depth))
    palette_bytes = tf.strings.substr(raw, 14 + header_size, 4 * num_colors)
    palette = tf.reshape(tf.io.decode_raw(palette_bytes, tf.uint8), (-1, 4))
    num_rows = tf.abs(height)
    stride = (width * depth + 31) // 32 * 4
    is_complete = tf.debugging.Assert(
        tf.strings.length(raw) >= data_start + stride * num_rows, ["truncated or corrupt BMP"]
    )
    with tf.control_dependencies([is_complete]):
        raw = tf.identity(raw)
    data = tf.io.decode_raw(tf.strings.substr(raw, data_start, stride * num_rows), tf.uint8)
    data = tf.reshape(data, (num_rows, stride, 1))
    # Several pixels share a byte, the leftmost one in its highest bits.
    pixels_per_byte = 8 // depth
    shifts = 8 - depth * (1 + tf.range(pixels_per_byte))
    bit_mask = tf.bitwise.left_shift(1, depth) - 1
    indices = tf.bitwise.right_shift(tf.cast(data, tf.int32), shifts) & bit_mask
    indices = tf.reshape(indices, (num_rows, stride * pixels_per_byte))[:, :width]
    indices = tf.where(height > 0, indices[::-1], indices)
    bgr = tf.gather(palette[:, :3], indices)
    return tf.concat([bgr[..., ::-1], tf.fill((num_rows, width, 1), tf.constant(255, tf.uint8))], -1)
