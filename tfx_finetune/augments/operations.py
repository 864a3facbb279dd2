"""Changes of one picture by a strength, as Pillow makes them: what RandAugment and AugMix choose from.

Each takes uint8 (height, width, channels) and a strength from -1 to 1, of which those that know one direction alone
take the size.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_finetune.pixels import luma, rounded

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def warp(pixels: tf.Tensor, matrix: list) -> tf.Tensor:
    """Takes each pixel from `(a x + b y + c, d x + e y + f)`, bilinearly; beyond the edge its pixels go on.

    Args:
        pixels: uint8 (height, width, channels).
        matrix: a, b, c, d, e, f, with coordinates from the centre in pixels.
    """
    a, b, c, d, e, f = [tf.cast(value, tf.float32) for value in matrix]
    height, width = tf.unstack((tf.cast(tf.shape(pixels)[:2], tf.float32) - 1) / 2)
    row = tf.stack([a, b, c + width - a * width - b * height, d, e, f + height - d * width - e * height, 0.0, 0.0])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=row[None],
        output_shape=tf.shape(pixels)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.ensure_shape(moved[0], pixels.shape)


def rotate(pixels: tf.Tensor, strength: tf.Tensor, most: float = 30.0) -> tf.Tensor:
    """Turns up to `most` degrees; positive is counter-clockwise."""
    angle = strength * (most * math.pi / 180)
    return warp(pixels, [tf.cos(angle), -tf.sin(angle), 0, tf.sin(angle), tf.cos(angle), 0])


def shear_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Slants along the width, up to 0.3 pixels a row."""
    return warp(pixels, [1, 0.3 * strength, 0, 0, 1, 0])


def shear_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Slants along the height, up to 0.3 pixels a column."""
    return warp(pixels, [1, 0, 0, 0.3 * strength, 1, 0])


def translate_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts along the width by up to 0.45 of it."""
    return warp(pixels, [1, 0, 0.45 * strength * tf.cast(tf.shape(pixels)[1], tf.float32), 0, 1, 0])


def translate_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts along the height by up to 0.45 of it."""
    return warp(pixels, [1, 0, 0, 0, 1, 0.45 * strength * tf.cast(tf.shape(pixels)[0], tf.float32)])


def auto_contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0 to 255."""
    values = tf.cast(pixels, tf.float32)
    low, high = tf.reduce_min(values, (0, 1)), tf.reduce_max(values, (0, 1))
    return tf.where(high > low, rounded(tf.math.divide_no_nan((values - low) * 255, high - low)), pixels)


def equalize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Makes all values of each channel about equally frequent."""

    def channel(values: tf.Tensor) -> tf.Tensor:
        counts = tf.math.bincount(tf.cast(values, tf.int32), minlength=256, maxlength=256)
        used = tf.boolean_mask(counts, counts > 0)
        step = (tf.reduce_sum(used) - used[-1]) // 255
        below = tf.cumsum(counts, exclusive=True)
        table = tf.where(step == 0, tf.range(256), (below + step // 2) // tf.maximum(step, 1))
        return tf.gather(tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8), tf.cast(values, tf.int32))

    shape = tf.shape(pixels)
    flat = tf.transpose(tf.reshape(pixels, (-1, shape[-1])))
    return tf.ensure_shape(tf.reshape(tf.transpose(tf.map_fn(channel, flat)), shape), pixels.shape)


def solarize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Inverts values from 256 (nothing) down to 0 (everything) on."""
    threshold = 256 * (1 - tf.abs(strength))
    return tf.where(tf.cast(pixels, tf.float32) < threshold, pixels, 255 - pixels)


def posterize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keeps 8 down to 4 bits."""
    step = 2 ** tf.cast(4 * tf.abs(strength), tf.int32)
    return tf.cast(tf.cast(pixels, tf.int32) // step * step, tf.uint8)


def grey(pixels: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma in every channel."""
    if pixels.shape[-1] == 1:
        return pixels
    return tf.repeat(luma(pixels), 3, -1)


def color(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards grey (-1: a tenth of the colour is left) or away from it (1: nearly twice)."""
    return _blend(grey(pixels), pixels, strength)


def contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards the mean grey or away from it."""
    mean = tf.floor(tf.reduce_mean(tf.cast(grey(pixels), tf.float32)) + 0.5)
    return _blend(tf.zeros_like(pixels) + tf.cast(mean, tf.uint8), pixels, strength)


def brightness(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards black or away from it."""
    return _blend(tf.zeros_like(pixels), pixels, strength)


def sharpness(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards a smoothed picture or away from it; the outermost pixels stay."""
    channels = pixels.shape[-1]
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, channels, 1))
    inner = tf.nn.depthwise_conv2d(tf.cast(pixels, tf.float32)[None], kernel, (1, 1, 1, 1), "VALID")[0]
    ring = tf.pad(tf.ones_like(inner, tf.bool), ((1, 1), (1, 1), (0, 0)))
    smooth = tf.where(ring, tf.pad(rounded(inner), ((1, 1), (1, 1), (0, 0))), pixels)
    return _blend(smooth, pixels, strength)


def sometimes(
    sample: dict[str, Any], seed: tf.Tensor, probability: float, change: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, Any]:
    """Changes the picture of a share of the samples, drawn by the seed."""
    pixels = sample["image"]
    drawn = tf.random.stateless_uniform((), seed) < probability
    return sample | {"image": tf.cond(drawn, lambda: change(pixels), lambda: pixels)}


def _blend(origin: tf.Tensor, pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    start, values = tf.cast(origin, tf.float32), tf.cast(pixels, tf.float32)
    return rounded(start + (values - start) * (1 + 0.9 * strength))


# Those of AugMix leave out what the corruptions of ImageNet-C, against which it is measured, consist of.
AUGMIX: tuple[Operation, ...] = (
    *(auto_contrast, equalize, posterize, rotate, solarize),
    *(shear_x, shear_y, translate_x, translate_y),
)
RAND_AUGMENT: tuple[Operation, ...] = (*AUGMIX, color, contrast, brightness, sharpness)


def one_of(operations: tuple[Operation, ...], pixels: tf.Tensor, magnitude: float, seed: tf.Tensor) -> tf.Tensor:
    """Applies one operation, drawn at random, with a strength of `magnitude` (0 to 10) in either direction."""
    which = tf.random.stateless_uniform((), seed, 0, len(operations), tf.int32)
    sign = tf.where(tf.random.stateless_uniform((), tf.random.experimental.stateless_fold_in(seed, 1)) < 0.5, -1.0, 1.0)
    branches = [lambda operation=operation: operation(pixels, sign * magnitude / 10) for operation in operations]
    return tf.switch_case(which, branches)
