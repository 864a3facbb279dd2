"""Picture formats in TensorFlow operations: which one it is, how large it is, and its pixels over a background.

TensorFlow's own operations decompress; this file does what they leave out: EXIF orientation, transparency, palettes
of BMP, and a look at the size before anything is decompressed.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from tfx_finetune.datasets.modalities.bmp import decode_bmp
from tfx_finetune.datasets.modalities.exif import apply_orientation
from tfx_finetune.datasets.modalities.gif import composite_transparency
from tfx_finetune.datasets.modalities.header import read_integer
from tfx_finetune.ops.tf_data import make_noinline_function

Color = tuple[int, int, int]

_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM", "WebP": b"RIFF"}


def decode_image(raw: tf.Tensor, background: Color, max_pixels: int, sufficient_side: int = 0) -> tf.Tensor:
    """Decodes a picture of any of the formats.

    Args:
        raw: Scalar string with the encoded picture.
        background: Colour behind transparency.
        max_pixels: Larger pictures are refused before they are decompressed.
        enough: A JPEG is decoded at half, a quarter or an eighth of its size where its shorter side still has so many
            pixels then, which takes a fraction of the time; 0 for its full size.

    Returns:
        uint8 (height, width, 3), upright. Of animations the first frame; of 16-bit pictures the upper 8 bits.

    Raises:
        tf.errors.InvalidArgumentError: It is no picture, broken, or too large; `image.reason` says it in words.
    """
    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(raw) > 0, ["empty file"])]):
        raw = tf.identity(raw)
    starts = tf.stack([tf.strings.substr(raw, 0, len(magic)) == magic for magic in _MAGIC.values()])
    found = tf.reduce_any(starts) & (tf.strings.length(raw) >= 26)
    with tf.control_dependencies([tf.debugging.Assert(found, ["not a JPEG, PNG, GIF, BMP or WebP picture"])]):
        which = tf.argmax(tf.cast(starts, tf.int32), output_type=tf.int32)
    decoders = (
        functools.partial(_decode_jpeg, sufficient_side=sufficient_side),
        _decode_png,
        _decode_gif,
        _decode_bmp,
        _decode_webp,
    )
    return tf.switch_case(which, [_make_branch(decoder, raw, background, max_pixels) for decoder in decoders])


def _make_branch(decoder: Callable, raw: tf.Tensor, background: Color, max_pixels: int) -> Callable[[], tf.Tensor]:
    run = make_noinline_function(
        lambda raw: decoder(raw, background, max_pixels), input_signature=[tf.TensorSpec((), tf.string)]
    )
    return lambda: tf.ensure_shape(run(raw), (None, None, 3))


def _decode_jpeg(raw: tf.Tensor, background: Color, max_pixels: int, sufficient_side: int) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(raw)
    with _assert_pixel_limit(shape[1], shape[0], max_pixels):
        # The accurate transform gives the pixels that other decoders give; the default one is off by a few levels.
        full = functools.partial(tf.io.decode_jpeg, raw, channels=3, dct_method="INTEGER_ACCURATE")
        if not sufficient_side:
            pixels = full()
        else:
            halved = tf.reduce_sum(
                tf.cast(tf.reduce_min(shape[:2]) >= tf.constant([2, 4, 8]) * sufficient_side, tf.int32)
            )
            pixels = tf.switch_case(halved, [functools.partial(full, ratio=ratio) for ratio in (1, 2, 4, 8)])
    return apply_orientation(pixels, tf.strings.substr(raw, 0, 65536), b"Exif\0\0", 6)


def _decode_png(raw: tf.Tensor, background: Color, max_pixels: int) -> tf.Tensor:
    # Before the pixels stands whether there is transparency: by the kind of colour, or in a block of its own. Where it
    # is not, none is asked for: of less than 8 bits TensorFlow would give an alpha of 2^bits - 1 in place of 255.
    before = tf.strings.split(raw, b"IDAT", maxsplit=1)[0]
    block = tf.shape(tf.strings.split(before, b"tRNS", maxsplit=1))[0] > 1
    opaque = (read_integer(raw, 25, 1) & 4 == 0) & ~block
    with _assert_pixel_limit(read_integer(raw, 16, 4, "big"), read_integer(raw, 20, 4, "big"), max_pixels):
        pixels = tf.cond(
            opaque,
            lambda: tf.io.decode_png(raw, channels=3),
            lambda: _composite(tf.io.decode_png(raw, channels=4), background),
        )
    return apply_orientation(pixels, tf.strings.substr(raw, 0, 65536), b"eXIf", 4)


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
    alpha = tf.where(kind == b"VP8X", flags & 0x10 != 0, (kind == b"VP8L") & (bits & 0x10000000 != 0))
    # TensorFlow 2.21 corrupts its memory on an animation that it is asked to decode with channels=0.
    still = tf.debugging.Assert((kind != b"VP8X") | (flags & 0x02 == 0), ["an animated WebP"])
    with _assert_pixel_limit(size[0], size[1], max_pixels), tf.control_dependencies([still]):
        pixels = tf.cond(
            alpha,
            lambda: _composite(tf.image.decode_webp(raw, channels=4)[0], background),
            lambda: tf.image.decode_webp(raw, channels=3)[0],
        )
    # A WebP file has its EXIF block behind the picture.
    tail = tf.strings.substr(raw, tf.maximum(tf.strings.length(raw) - 65536, 0), 65536)
    return apply_orientation(pixels, tail, b"EXIF", 8)


def _assert_pixel_limit(width: tf.Tensor, height: tf.Tensor, max_pixels: int) -> tf.control_dependencies:
    pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    fits = tf.debugging.Assert(
        pixels <= max_pixels, ["a picture of ", width, " x ", height, f" pixels, at most {max_pixels}"]
    )
    real = tf.debugging.Assert(pixels > 0, ["a picture without pixels"])
    return tf.control_dependencies([fits, real])


def _composite(pixels: tf.Tensor, background: Color) -> tf.Tensor:
    """Composites uint8 (height, width, 4) over a colour, rounding as Pillow's alpha_composite does.

    The numbers are whole and below 2^24, so float32 is exact; it is also several times faster than integers are.
    """
    colour = tf.constant(background, tf.float32)
    values = tf.cast(pixels, tf.float32)
    mixed = (values[..., :3] - colour) * values[..., 3:] + (255 * colour + 127)
    return tf.cast(mixed / 255, tf.uint8)
