"""Pictures: encoded bytes -> pixels -> model input, in TensorFlow operations.

The same operations stand in the training pipeline and in the exported SavedModel, so that a model sees the same
pixels everywhere.
"""

import functools
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.modalities.formats import decode_image
from tfx_finetune.ops.pixels import luma
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg, SamplePreview
from tfx_finetune.types.localization import Letterbox

Resize = Literal["pad", "crop", "stretch"]

_THUMBNAIL = 160
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
    """Pictures as JPEG, PNG, GIF, BMP or WebP, or as pixels, made square.

    Args:
        card: Says the size and the channels that the backbone wants.
        resize: `pad` keeps the whole picture and its proportions, `crop` its proportions, `stretch` the whole
            picture.
        background: Colour behind transparency and padding: white, black, gray or #rrggbb.
        max_pixels: Larger pictures are refused before they are decompressed.
    """
    colour = parse_color(background)
    side = pretrained_cfg.size

    # Twice the side leaves enough for a crop, and for the antialiasing of the rest of the way.
    decompressed = _make_decoder(colour, max_pixels, 2 * side)

    def to_pixels(raw: tf.Tensor) -> tf.Tensor:
        if raw.dtype == tf.string:
            pixels = decompressed(raw)
        else:
            pixels = raw if raw.shape.rank == 3 else raw[..., None]
            pixels = tf.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
        return pixels if pretrained_cfg.channels == 3 else luma(pixels)

    back = tf.constant(
        colour if pretrained_cfg.channels == 3 else luma(tf.constant([[colour]], tf.uint8))[0, 0], tf.uint8
    )

    def blank() -> tf.Tensor:
        return tf.zeros((side, side, pretrained_cfg.channels), tf.uint8) + back

    return Modality(
        column="image",
        decode=to_pixels,
        prepare=lambda pixels: resize_to_square(pixels, side, resize, back),
        shape=(side, side, pretrained_cfg.channels),
        empty_value=blank,
        portable=True,
        unit="pictures",
        default_augments="flip()",
        error_message=describe_error,
        preview=lambda raw, prepared: SamplePreview(image=encode_thumbnail(prepared)),
        letterbox=lambda shape: compute_letterbox(shape, side, resize),
    )


@functools.cache
def _make_decoder(
    background: tuple[int, int, int], max_pixels: int, sufficient_side: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """`decode`, traced once, not by every pipeline and bundle: the branches for all formats take most of a second."""
    spec = tf.TensorSpec((), tf.string)
    return tf.function(lambda raw: decode_image(raw, background, max_pixels, sufficient_side), [spec], autograph=False)


def resize_to_square(pixels: tf.Tensor, side: int, resize: Resize, background: tf.Tensor) -> tf.Tensor:
    """Makes a picture square by antialiased bilinear resizing.

    Args:
        pixels: uint8 (height, width, channels).
        side: Of the result.
        resize: See `image`.
        background: uint8 (channels,), for padding.

    Returns:
        uint8 (side, side, channels).
    """
    shape = tf.shape(pixels)[:2]
    target = _compute_resized_shape(shape, side, resize)
    as_it_is = tf.reduce_all(tf.equal(shape, target))
    resized = tf.cond(as_it_is, lambda: pixels, lambda: _resize(pixels, target))
    square = tf.reduce_all(tf.equal(target, side))
    shaped = {"pad": _pad_to_square, "crop": _center_crop}.get(resize)
    fitted = tf.cond(square, lambda: resized, lambda: shaped(resized, side, background)) if shaped else resized
    return tf.ensure_shape(fitted, (side, side, background.shape[0]))


def _pad_to_square(pixels: tf.Tensor, side: int, background: tf.Tensor) -> tf.Tensor:
    """In the middle of a square."""
    height, width, channels = tf.unstack(tf.shape(pixels))
    above, left = (side - height) // 2, (side - width) // 2

    def bar(rows: tf.Tensor, columns: tf.Tensor | int) -> tf.Tensor:
        return tf.broadcast_to(background, tf.stack([rows, columns, channels]))

    wide = tf.concat([bar(height, left), pixels, bar(height, side - width - left)], 1)
    return tf.concat([bar(above, side), wide, bar(side - height - above, side)], 0)


def _center_crop(pixels: tf.Tensor, side: int, background: tf.Tensor) -> tf.Tensor:
    """The middle square."""
    before = (tf.shape(pixels)[:2] - side) // 2
    return pixels[before[0] : before[0] + side, before[1] : before[1] + side]


def compute_letterbox(shape: tf.Tensor, side: int, resize: Resize) -> Letterbox:
    """How `fit` lays a picture of this height and width, (2,)."""
    target = _compute_resized_shape(shape, side, resize)
    before = tf.cast(tf.abs(side - target) // 2, tf.float32)
    scale = tf.cast(target, tf.float32) / tf.cast(shape, tf.float32)
    return Letterbox(scale, -before if resize == "crop" else before, side)


def _compute_resized_shape(shape: tf.Tensor, side: int, resize: Resize) -> tf.Tensor:
    """Height and width to which a picture of this height and width is resized, int32 (2,)."""
    if resize == "stretch":
        return tf.constant([side, side])
    size = tf.cast(shape, tf.float32)
    scale = side / (tf.reduce_max(size) if resize == "pad" else tf.reduce_min(size))
    return tf.maximum(tf.cast(tf.round(size * scale), tf.int32), 1)


def parse_color(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or #rrggbb.

    Raises:
        UserError: It is neither.
    """
    if text.lower() in _COLORS:
        return _COLORS[text.lower()]
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UserError("unknown colour", got=text, expected=[*_COLORS, "#rrggbb"])
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def encode_thumbnail(pixels: np.ndarray) -> bytes:
    """A JPEG file of pixels, uint8 (side, side, channels), made smaller where it is large."""
    side = min(_THUMBNAIL, pixels.shape[0])
    small = tf.cast(tf.image.resize(pixels, (side, side), antialias=True), tf.uint8)
    return tf.io.encode_jpeg(small, quality=80).numpy()


def describe_error(error: Exception) -> str:
    """Why a picture cannot be decoded, in a few words, from the exception that decoding raised."""
    text = getattr(error, "message", str(error))
    if "assertion failed: " in text:
        return "".join(re.findall(r"\[(.*?)\]", text.split("assertion failed: ")[1].splitlines()[0])).strip("'")
    # Where the graph was made stands there too, in files and functions that may be called anything.
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith('File "')) or text
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WebP"):
        if kind.lower() in text.lower():
            return f"truncated or corrupt {kind}"
    return text.splitlines()[0].removeprefix("{{").strip()[:200]


def _resize(pixels: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(pixels, target, antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)  # a mean of pixels is never outside of 0 to 255
