"""Image modality: encoded file -> pixels -> model input, in TensorFlow operations.

The training pipeline and the exported SavedModel run the same operations, so that a model always gets the same pixels.
"""

import functools
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.modalities.image_decoding import Color, decode_image
from tfx_finetune.ops.image import rgb_to_luma
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg, SamplePreview
from tfx_finetune.types.localization import Letterbox

Resize = Literal["pad", "crop", "stretch"]

_THUMBNAIL_SIDE = 160
_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128), "grey": (128, 128, 128)}


@MODALITIES.register
def image(
    pretrained_cfg: PretrainedCfg,
    /,
    *,
    resize: Resize = "pad",
    background: str = "white",
    max_pixels: int = 100_000_000,
) -> Modality:
    """Images as JPEG, PNG, GIF, BMP or WebP, or as pixels, resized to a square.

    Args:
        pretrained_cfg: Side and number of channels of the model input.
        resize: `pad` keeps the whole image and its aspect ratio, `crop` keeps the aspect ratio, `stretch` keeps the
            whole image. Default `pad`.
        background: white, black, gray or #rrggbb. Color behind transparent pixels and of the padding. Default white.
        max_pixels: int. Images with more pixels are rejected before they are decompressed. Default 100 million.

    Raises:
        UserError: If the color is unknown.
    """
    color = parse_color(background)
    side = pretrained_cfg.size

    # Twice the side leaves enough pixels for a crop and for the antialiasing of the final resize.
    decode_file = _make_decoder(color, max_pixels, 2 * side)

    def decode(raw: tf.Tensor) -> tf.Tensor:
        if raw.dtype == tf.string:
            pixels = decode_file(raw)
        else:
            pixels = raw if raw.shape.rank == 3 else raw[..., None]
            pixels = tf.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
        return pixels if pretrained_cfg.channels == 3 else rgb_to_luma(pixels)

    background_pixel = tf.constant(
        color if pretrained_cfg.channels == 3 else rgb_to_luma(tf.constant([[color]], tf.uint8))[0, 0], tf.uint8
    )

    def make_empty() -> tf.Tensor:
        return tf.zeros((side, side, pretrained_cfg.channels), tf.uint8) + background_pixel

    return Modality(
        column="image",
        decode=decode,
        prepare=lambda pixels: resize_to_square(pixels, side, resize, background_pixel),
        shape=(side, side, pretrained_cfg.channels),
        empty_value=make_empty,
        portable=True,
        unit="images",
        default_augments="flip()",
        error_message=describe_error,
        preview=lambda raw, prepared: SamplePreview(image=encode_thumbnail(prepared)),
        letterbox=lambda shape: compute_letterbox(shape, side, resize),
    )


@functools.cache
def _make_decoder(background: Color, max_pixels: int, sufficient_side: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Trace `decode_image` once for all pipelines and bundles: its branches take most of a second."""
    spec = tf.TensorSpec((), tf.string)
    return tf.function(lambda raw: decode_image(raw, background, max_pixels, sufficient_side), [spec], autograph=False)


def resize_to_square(pixels: tf.Tensor, side: int, resize: Resize, background: tf.Tensor) -> tf.Tensor:
    """Resize an image to a square, antialiased bilinear.

    Args:
        pixels: uint8 (height, width, channels).
        side: int >= 1. Side of the square in pixels.
        resize: `pad`, `crop` or `stretch`, as in `image`.
        background: uint8 (channels,). Color of the padding.

    Returns:
        uint8 (side, side, channels).

    Examples:
        >>> pixels = tf.constant([[[7], [7]]], tf.uint8)
        >>> resize_to_square(pixels, 2, "stretch", tf.constant([0], tf.uint8))[..., 0].numpy().tolist()
        [[7, 7], [7, 7]]
        >>> resize_to_square(pixels, 2, "pad", tf.constant([0], tf.uint8))[..., 0].numpy().tolist()
        [[7, 7], [0, 0]]
    """
    shape = tf.shape(pixels)[:2]
    target = _compute_resized_shape(shape, side, resize)
    has_target_shape = tf.reduce_all(tf.equal(shape, target))
    resized = tf.cond(has_target_shape, lambda: pixels, lambda: _resize(pixels, target))
    is_square = tf.reduce_all(tf.equal(target, side))
    pad_or_crop = {"pad": _pad_to_square, "crop": _center_crop}.get(resize)
    square = (
        tf.cond(is_square, lambda: resized, lambda: pad_or_crop(resized, side, background)) if pad_or_crop else resized
    )
    return tf.ensure_shape(square, (side, side, background.shape[0]))


def _pad_to_square(pixels: tf.Tensor, side: int, background: tf.Tensor) -> tf.Tensor:
    height, width, channels = tf.unstack(tf.shape(pixels))
    above, left = (side - height) // 2, (side - width) // 2

    def bar(rows: tf.Tensor, columns: tf.Tensor | int) -> tf.Tensor:
        return tf.broadcast_to(background, tf.stack([rows, columns, channels]))

    wide = tf.concat([bar(height, left), pixels, bar(height, side - width - left)], 1)
    return tf.concat([bar(above, side), wide, bar(side - height - above, side)], 0)


def _center_crop(pixels: tf.Tensor, side: int, background: tf.Tensor) -> tf.Tensor:
    before = (tf.shape(pixels)[:2] - side) // 2
    return pixels[before[0] : before[0] + side, before[1] : before[1] + side]


def compute_letterbox(shape: tf.Tensor, side: int, resize: Resize) -> Letterbox:
    """Compute the scale and offset by which `resize_to_square` maps an image to the square.

    Args:
        shape: int32 (2,). Height and width of the image in pixels.
        side: int >= 1. Side of the square in pixels.
        resize: `pad`, `crop` or `stretch`, as in `image`.

    Examples:
        >>> letterbox = compute_letterbox(tf.constant([50, 100]), 200, "pad")
        >>> letterbox.scale.numpy().tolist(), letterbox.offset.numpy().tolist()
        ([2.0, 2.0], [50.0, 0.0])
    """
    target = _compute_resized_shape(shape, side, resize)
    before = tf.cast(tf.abs(side - target) // 2, tf.float32)
    scale = tf.cast(target, tf.float32) / tf.cast(shape, tf.float32)
    return Letterbox(scale, -before if resize == "crop" else before, side)


def _compute_resized_shape(shape: tf.Tensor, side: int, resize: Resize) -> tf.Tensor:
    """Compute height and width int32 (2,) of the resized image, before padding or cropping."""
    if resize == "stretch":
        return tf.constant([side, side])
    size = tf.cast(shape, tf.float32)
    scale = side / (tf.reduce_max(size) if resize == "pad" else tf.reduce_min(size))
    return tf.maximum(tf.cast(tf.round(size * scale), tf.int32), 1)


def parse_color(text: str) -> Color:
    """Parse a color name or #rrggbb.

    Args:
        text: white, black, gray, grey or #rrggbb.

    Returns:
        Red, green and blue, 0 to 255.

    Raises:
        UserError: If the text is neither.

    Examples:
        >>> parse_color("white"), parse_color("#204060")
        ((255, 255, 255), (32, 64, 96))
    """
    if text.lower() in _COLORS:
        return _COLORS[text.lower()]
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UserError("Unknown color", got=text, expected=[*_COLORS, "#rrggbb"])
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def encode_thumbnail(pixels: np.ndarray) -> bytes:
    """Encode an image as a JPEG of at most 160 pixels a side.

    Args:
        pixels: uint8 (side, side, channels).
    """
    side = min(_THUMBNAIL_SIDE, pixels.shape[0])
    thumbnail = tf.cast(tf.image.resize(pixels, (side, side), antialias=True), tf.uint8)
    return tf.io.encode_jpeg(thumbnail, quality=80).numpy()


def describe_error(error: Exception) -> str:
    """Return a short reason for an exception that TensorFlow raised while it decoded an image or text.

    Args:
        error: Exception of `Modality.decode`.
    """
    message = getattr(error, "message", str(error))
    if "assertion failed: " in message:
        return "".join(re.findall(r"\[(.*?)\]", message.split("assertion failed: ")[1].splitlines()[0])).strip("'")
    # The message also has a traceback of the graph, whose files and functions may be named after a format.
    message = "\n".join(line for line in message.splitlines() if not line.lstrip().startswith('File "')) or message
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "WebP"):
        if image_format.lower() in message.lower():
            return f"truncated or corrupt {image_format}"
    return message.splitlines()[0].removeprefix("{{").strip()[:200]


def _resize(pixels: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(pixels, target, antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)  # an average of pixels is always within 0 to 255
