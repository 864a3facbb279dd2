"""Image headers with EXIF orientation, and conversions of pixel values."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from PIL import ExifTags, Image

TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations (CIPA DC-008, tag 0x0112) that swap width and height."""


class ImageHeader(NamedTuple):
    """Size and orientation of an image file.

    Attributes:
        width, height: Size of the upright image in pixels, that is after the EXIF orientation is applied.
        orientation: EXIF orientation, 1 to 8.
    """

    width: int
    height: int
    orientation: int


def read_image_header(image: bytes | Path) -> ImageHeader | None:
    """Read size and orientation of an image without decoding its pixels.

    Args:
        image: Encoded image, or path of an image file.

    Returns:
        The header, or None if Pillow cannot read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a run has its own limit of pixels
            with Image.open(image if isinstance(image, Path) else io.BytesIO(image)) as file:
                orientation = int(file.getexif().get(ExifTags.Base.Orientation, 1))
                width, height = file.size
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    if orientation in TRANSPOSED_ORIENTATIONS:
        width, height = height, width
    return ImageHeader(width, height, orientation)


def read_image_size(image: bytes | Path) -> tuple[int, int]:
    """Read height and width of the upright image in pixels.

    Args:
        image: Encoded image, or path of an image file.

    Raises:
        OSError: If the header cannot be read.
    """
    header = read_image_header(image)
    if header is None:
        raise OSError("not a readable image")
    return header.height, header.width


def rgb_to_luma(pixels: tf.Tensor) -> tf.Tensor:
    """Convert RGB to ITU-R BT.601 luma with Pillow's integer arithmetic.

    Args:
        pixels: uint8 (..., 3).

    Returns:
        uint8 (..., 1).

    Examples:
        >>> rgb_to_luma(tf.constant([255, 0, 0], tf.uint8)).numpy().tolist()
        [76]
    """
    weighted = tf.cast(pixels, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.cast((tf.reduce_sum(weighted, -1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def round_to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Round floats and clip them to 0 to 255.

    Args:
        values: float tensor of any shape.

    Returns:
        uint8 tensor of the same shape.

    Examples:
        >>> round_to_uint8(tf.constant([-3.0, 1.6, 300.0])).numpy().tolist()
        [0, 2, 255]
    """
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)
