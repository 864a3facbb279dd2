"""Decoding of JPEG, PNG, GIF, BMP and WebP in TensorFlow operations.

TensorFlow's operations decompress. This file detects the format, checks the size before decompression, applies the
EXIF orientation and composites transparent pixels over a background.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from tfx_finetune.datasets.modalities.image_formats import (
    apply_orientation,
    composite_transparency,
    decode_bmp,
    read_integer,
)
from tfx_finetune.ops.tf_data import make_noinline_function

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM", "WebP": b"RIFF"}
_EXIF_SEARCH_BYTES = 65536


def decode_image(raw: tf.Tensor, background: Color, max_pixels: int, sufficient_side: int = 0) -> tf.Tensor:
    """Decode an image of any of the formats.

    Args:
        raw: Scalar string. Encoded image.
        background: Color behind transparent pixels.
        max_pixels: int >= 1. Images with more pixels are rejected before they are decompressed.
        sufficient_side: int >= 0, in pixels. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, in a fraction of the
            time, if its shorter side still has this many pixels. Default 0: full size.

    Returns:
        uint8 (height, width, 3), upright. The first frame of an animation; the upper 8 bits of 16-bit images.

    Raises:
        tf.errors.InvalidArgumentError: If the file is not an image, corrupt or too large. `image.describe_error`
            converts the exception to a short reason.
    """
    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(raw) > 0, ["empty file"])]):
        raw = tf.identity(raw)
    matches = tf.stack([tf.strings.substr(raw, 0, len(signature)) == signature for signature in _SIGNATURES.values()])
    is_image = tf.reduce_any(matches) & (tf.strings.length(raw) >= 26)
    with tf.control_dependencies([tf.debugging.Assert(is_image, ["not a JPEG, PNG, GIF, BMP or WebP image"])]):
        format_index = tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32)
    decoders = (
        functools.partial(_decode_jpeg, sufficient_side=sufficient_side),
        _decode_png,
        _decode_gif,
        _decode_bmp,
        _decode_webp,
    )
    return tf.switch_case(format_index, [_make_branch(decoder, raw, background, max_pixels) for decoder in decoders])


def _make_branch(decoder: Callable, raw: tf.Tensor, background: Color, max_pixels: int) -> Callable[[], tf.Tensor]:
    run = make_noinline_function(
        lambda raw: decoder(raw, background, max_pixels), input_signature=[tf.TensorSpec((), tf.string)]
    )
    return lambda: tf.ensure_shape(run(raw), (None, None, 3))


def _decode_jpeg(raw: tf.Tensor, background: Color, max_pixels: int, sufficient_side: int) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(raw)
    with _assert_pixel_limit(shape[1], shape[0], max_pixels):
        # The accurate transform gives the pixels of other decoders; the default one is off by a few levels.
        decode = functools.partial(tf.io.decode_jpeg, raw, channels=3, dct_method="INTEGER_ACCURATE")
        if not sufficient_side:
            pixels = decode()
        else:
            min_sides = tf.constant([2, 4, 8]) * sufficient_side
            num_halvings = tf.reduce_sum(tf.cast(tf.reduce_min(shape[:2]) >= min_sides, tf.int32))
            pixels = tf.switch_case(num_halvings, [functools.partial(decode, ratio=ratio) for ratio in (1, 2, 4, 8)])
    return apply_orientation(pixels, tf.strings.substr(raw, 0, _EXIF_SEARCH_BYTES), b"Exif\0\0", 6)


def _decode_png(raw: tf.Tensor, background: Color, max_pixels: int) -> tf.Tensor:
    # The color type, or a tRNS chunk in front of the pixel data, tells whether there is transparency. If not, no alpha
    # is requested: for less than 8 bits, TensorFlow gives an alpha of 2^bits - 1 instead of 255.
    chunks_before_pixels = tf.strings.split(raw, b"IDAT", maxsplit=1)[0]
    has_transparency_chunk = tf.shape(tf.strings.split(chunks_before_pixels, b"tRNS", maxsplit=1))[0] > 1
    is_opaque = (read_integer(raw, 25, 1) & 4 == 0) & ~has_transparency_chunk
    with _assert_pixel_limit(read_integer(raw, 16, 4, "big"), read_integer(raw, 20, 4, "big"), max_pixels):
        pixels = tf.cond(
            is_opaque,
            lambda: tf.io.decode_png(raw, channels=3),
            lambda: _composite(tf.io.decode_png(raw, channels=4), background),
        )
    return apply_orientation(pixels, tf.strings.substr(raw, 0, _EXIF_SEARCH_BYTES), b"eXIf", 4)


def _decode_gif(raw: tf.Tensor, background: Color, max_pixels: int) -> tf.Tensor:
    with _assert_pixel_limit(read_integer(raw, 6, 2), read_integer(raw, 8, 2), max_pixels):
        return tf.image.decode_image(composite_transparency(raw, background), channels=3, expand_animations=False)


def _decode_bmp(raw: tf.Tensor, background: Color, max_pixels: int) -> tf.Tensor:
    with _assert_pixel_limit(read_integer(raw, 18, 4), tf.abs(read_integer(raw, 22, 4)), max_pixels):
        return _composite(decode_bmp(raw), background)


def _decode_webp(raw: tf.Tensor, background: Color, max_pixels: int) -> tf.Tensor:
    kind = tf.strings.substr(raw, 12, 4)
    simple = tf.stack([read_integer(raw, 26, 2) & 0x3FFF, read_integer(raw, 28, 2) & 0x3FFF])
    bits = read_integer(raw, 21, 4)
    lossless = tf.stack([bits & 0x3FFF, tf.bitwise.right_shift(bits, 14) & 0x3FFF]) + 1
    extended = tf.stack([read_integer(raw, 24, 3), read_integer(raw, 27, 3)]) + 1
    size = tf.where(kind == b"VP8X", extended, tf.where(kind == b"VP8L", lossless, simple))
    flags = read_integer(raw, 20, 1)
    has_alpha = tf.where(kind == b"VP8X", flags & 0x10 != 0, (kind == b"VP8L") & (bits & 0x10000000 != 0))
    # TensorFlow 2.21 corrupts its memory if it decodes an animation with channels=0.
    is_still = tf.debugging.Assert((kind != b"VP8X") | (flags & 0x02 == 0), ["animated WebP"])
    with _assert_pixel_limit(size[0], size[1], max_pixels), tf.control_dependencies([is_still]):
        pixels = tf.cond(
            has_alpha,
            lambda: _composite(tf.image.decode_webp(raw, channels=4)[0], background),
            lambda: tf.image.decode_webp(raw, channels=3)[0],
        )
    # A WebP file has its EXIF block behind the pixel data.
    tail = tf.strings.substr(raw, tf.maximum(tf.strings.length(raw) - _EXIF_SEARCH_BYTES, 0), _EXIF_SEARCH_BYTES)
    return apply_orientation(pixels, tail, b"EXIF", 8)


def _assert_pixel_limit(width: tf.Tensor, height: tf.Tensor, max_pixels: int) -> tf.control_dependencies:
    pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    is_within_limit = tf.debugging.Assert(
        pixels <= max_pixels, ["image of ", width, " x ", height, f" pixels, at most {max_pixels}"]
    )
    has_pixels = tf.debugging.Assert(pixels > 0, ["image without pixels"])
    return tf.control_dependencies([is_within_limit, has_pixels])


def _composite(pixels: tf.Tensor, background: Color) -> tf.Tensor:
    """Composite uint8 RGBA pixels (height, width, 4) over a color, with the rounding of Pillow's alpha_composite.

    All numbers are integers below 2^24, so that float32 is exact; it is several times faster than integer arithmetic.
    """
    color = tf.constant(background, tf.float32)
    values = tf.cast(pixels, tf.float32)
    mixed = (values[..., :3] - color) * values[..., 3:] + (255 * color + 127)
    return tf.cast(mixed / 255, tf.uint8)
