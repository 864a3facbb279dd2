"""Segmentation masks in PNG files, whose gray values or palette indices are class indices."""

import functools
import struct
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfx_finetune.types.localization import IGNORE_INDEX, Letterbox

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BYTES = [bytes([value]) for value in range(256)]
# CRC-32 is linear: the checksums of two headers that differ only in color type 0 (grayscale) and 3 (palette) always
# differ by this value.
_CRC_DIFFERENCE = struct.pack(">I", zlib.crc32(bytes(13) + b"\3" + bytes(3)) ^ zlib.crc32(bytes(17)))
_GRAY, _PALETTE = 0, 3
_OTHER_COLOR_TYPES = {2: "RGB", 4: "grayscale with alpha", 6: "RGB with alpha"}


class PngHeader(NamedTuple):
    """Header (IHDR chunk) of a PNG file.

    Attributes:
        width, height: Size in pixels.
        bit_depth: Bits per value: 1, 2, 4, 8 or 16.
        color_type: 0 for grayscale, 3 for a palette.
    """

    width: int
    height: int
    bit_depth: int
    color_type: int


def read_png_header(raw: bytes) -> PngHeader:
    """Read the header of a mask.

    Args:
        raw: Content of a PNG file.

    Raises:
        ValueError: If the file is not a PNG, or neither grayscale nor palette. The message is a short reason.

    Examples:
        >>> read_png_header(tf.io.encode_png(tf.zeros((2, 3, 1), tf.uint8)).numpy())
        PngHeader(width=3, height=2, bit_depth=8, color_type=0)
    """
    if not raw.startswith(_SIGNATURE) or len(raw) < 33:
        raise ValueError("the mask is not a PNG file")
    header = PngHeader(*struct.unpack(">IIBB", raw[16:26]))
    if header.color_type not in (_GRAY, _PALETTE):
        color_type = _OTHER_COLOR_TYPES.get(header.color_type, f"of unknown color type {header.color_type}")
        raise ValueError(f"the mask is {color_type}, not grayscale or palette")
    return header


def read_mask_size(raw: bytes) -> tuple[int, int]:
    """Read width and height of a mask in pixels.

    Raises:
        ValueError: As `read_png_header`.
    """
    return read_png_header(raw)[:2]


def check_mask(raw: bytes) -> tuple[str, str, tuple[str, ...]]:
    """List the classes in a mask and check that training can use it.

    Args:
        raw: Content of a PNG file.

    Returns:
        The class indices in the mask, one per line; the reason why the mask cannot be used, or an empty string; and an
        empty tuple, since masks are never repaired (see `LocalizationTarget.check_annotations`).

    Examples:
        >>> check_mask(tf.io.encode_png(tf.constant([[[0], [2], [255]]], tf.uint8)).numpy())
        ('0\\n2', '', ())
    """
    try:
        read_png_header(raw)
        values = np.flatnonzero(np.bincount(_decode_numpy(raw).ravel(), minlength=IGNORE_INDEX))
    except ValueError as error:
        return "", str(error), ()
    except tf.errors.InvalidArgumentError:
        return "", "truncated or corrupt mask", ()
    if values.max() > IGNORE_INDEX:
        return "", f"the mask has values above {IGNORE_INDEX}", ()
    classes = values[values != IGNORE_INDEX]
    error_message = "" if len(classes) else f"all pixels of the mask are {IGNORE_INDEX}, which means unlabeled"
    return "\n".join(map(str, classes)), error_message, ()


def read_mask(raw: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Decode a mask and resize it to its image, by nearest neighbor.

    Args:
        raw: Scalar string. Content of a PNG file that `check_mask` accepts, or empty for an unlabeled image.
        shape: int32 (2,). Height and width of the image in pixels.

    Returns:
        uint8 (height, width, 1); `IGNORE_INDEX` everywhere if `raw` is empty.
    """
    unlabeled = tf.cast(tf.fill(tf.concat([shape, [1]], 0), IGNORE_INDEX), tf.uint8)
    return tf.cond(
        tf.strings.length(raw) > 0, lambda: resize_mask(tf.cast(decode_values(raw), tf.uint8), shape), lambda: unlabeled
    )


def resize_mask(mask: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Resize a decoded mask by nearest neighbor, with the rounding of Pillow.

    Args:
        mask: (height, width, 1), of any type.
        shape: int32 (2,). New height and width in pixels.

    Examples:
        >>> resize_mask(tf.constant([[[1], [2]]]), tf.constant([1, 4]))[0, :, 0].numpy().tolist()
        [1, 1, 2, 2]
    """
    old_shape = tf.shape(mask)
    rows, columns = ((2 * tf.range(shape[axis]) + 1) * old_shape[axis] // (2 * shape[axis]) for axis in (0, 1))
    return tf.gather(tf.gather(mask, rows), columns, axis=1)


def letterbox_mask(mask: tf.Tensor, letterbox: Letterbox) -> tf.Tensor:
    """Resize and pad a mask as its image was resized and padded for the model.

    Args:
        mask: uint8 (height, width, 1).
        letterbox: Scale and offset of the image in the model input.

    Returns:
        uint8 (side, side). Each pixel has the mask value at its center; the padding is `IGNORE_INDEX`.
    """
    centers = tf.range(letterbox.side, dtype=tf.float32) + 0.5
    indices = [
        tf.cast(tf.floor((centers - letterbox.offset[axis]) / letterbox.scale[axis]), tf.int32) for axis in (0, 1)
    ]
    inside = [(index >= 0) & (index < tf.shape(mask)[axis]) for axis, index in enumerate(indices)]
    rows, columns = (tf.clip_by_value(index, 0, tf.shape(mask)[axis] - 1) for axis, index in enumerate(indices))
    values = tf.gather(tf.gather(mask[..., 0], rows), columns, axis=1)
    values = tf.where(inside[0][:, None] & inside[1][None, :], values, tf.constant(IGNORE_INDEX, tf.uint8))
    return tf.ensure_shape(values, (letterbox.side, letterbox.side))


def decode_values(raw: tf.Tensor) -> tf.Tensor:
    """Decode the gray values or palette indices that a PNG file stores.

    TensorFlow decodes a palette to colors and scales gray values of few bits to 0 to 255. It is therefore given a
    grayscale file of the same pixel data, without the chunks between header and pixel data (PNG specification, 3rd
    edition, sections 5 and 11).

    Args:
        raw: Scalar string. Content of a PNG file of any bit depth.

    Returns:
        int32 (height, width, 1).
    """
    crc = tf.bitwise.bitwise_xor(_read_bytes(raw, 29, 4), _read_bytes(tf.constant(_CRC_DIFFERENCE), 0, 4))
    gray_header = tf.strings.join(
        [tf.strings.substr(raw, 0, 25), _BYTES[_GRAY], tf.strings.substr(raw, 26, 3), _join_bytes(crc)]
    )
    header = tf.where(_read_bytes(raw, 25, 1)[0] == _PALETTE, gray_header, tf.strings.substr(raw, 0, 33))
    gray_file = tf.strings.join([header, tf.strings.substr(raw, _find_pixel_data(raw), -1)])
    bit_depth = tf.cast(_read_bytes(raw, 24, 1)[0], tf.int32)

    def decode_up_to_8_bits() -> tf.Tensor:
        scaled = tf.cast(tf.io.decode_png(gray_file, channels=1), tf.int32)
        max_value = tf.bitwise.left_shift(1, bit_depth) - 1
        return scaled * max_value // 255

    return tf.cond(
        bit_depth > 8, lambda: tf.cast(tf.io.decode_png(gray_file, 1, tf.uint16), tf.int32), decode_up_to_8_bits
    )


@functools.cache
def _get_traced_decode() -> tf.types.experimental.PolymorphicFunction:
    return tf.function(decode_values, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _decode_numpy(raw: bytes) -> np.ndarray:
    return _get_traced_decode()(tf.constant(raw)).numpy()


def _find_pixel_data(raw: tf.Tensor) -> tf.Tensor:
    """Return the offset of the first IDAT chunk, or the file length if there is none."""
    end = tf.strings.length(raw)

    def is_other_chunk(offset: tf.Tensor) -> tf.Tensor:
        return (offset + 8 < end) & (tf.strings.substr(raw, offset + 4, 4) != b"IDAT")

    def skip_chunk(offset: tf.Tensor) -> tf.Tensor:
        length = tf.cast(_read_bytes(raw, offset, 4), tf.int32)
        return tf.minimum(offset + 12 + tf.reduce_sum(length * [1 << 24, 1 << 16, 1 << 8, 1]), end)

    return tf.while_loop(is_other_chunk, lambda offset: (skip_chunk(offset),), (tf.constant(33),))[0]


def _read_bytes(raw: tf.Tensor, offset: int | tf.Tensor, count: int) -> tf.Tensor:
    """Read bytes as uint8 (count,)."""
    return tf.ensure_shape(tf.io.decode_raw(tf.strings.substr(raw, offset, count), tf.uint8), (count,))


def _join_bytes(values: tf.Tensor) -> tf.Tensor:
    """Join uint8 values (count,) to a scalar string."""
    return tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), tf.cast(values, tf.int32)))
