"""Changes of one picture by a strength, as Pillow makes them: what RandAugment and AugMix choose from.

Each takes uint8 (height, width, channels) and a strength from -1 to 1, of which those that know one direction alone
take the size.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_finetune.ops.geometry import warp
from tfx_finetune.ops.pixels import luma, round_to_uint8

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def make_rotation_matrix(strength: tf.Tensor, shape: tf.Tensor, max_degrees: float = 30.0) -> list:
    """The matrix (see `geometry.warp`) of a turn up to `most` degrees; positive is counter-clockwise."""
    angle = strength * (max_degrees * math.pi / 180)
    return [tf.cos(angle), -tf.sin(angle), 0, tf.sin(angle), tf.cos(angle), 0]


def rotate(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Turns up to 30 degrees."""
    return warp(pixels, make_rotation_matrix(strength, tf.shape(pixels)))


def shear_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Slants along the width, up to 0.3 pixels a row."""
    return warp(pixels, _MATRICES[shear_x](strength, tf.shape(pixels)))


def shear_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Slants along the height, up to 0.3 pixels a column."""
    return warp(pixels, _MATRICES[shear_y](strength, tf.shape(pixels)))


def translate_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts along the width by up to 0.45 of it."""
    return warp(pixels, _MATRICES[translate_x](strength, tf.shape(pixels)))


def translate_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts along the height by up to 0.45 of it."""
    return warp(pixels, _MATRICES[translate_y](strength, tf.shape(pixels)))


def auto_contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0 to 255."""
    values = tf.cast(pixels, tf.float32)
    low, high = tf.reduce_min(values, (0, 1)), tf.reduce_max(values, (0, 1))
    return tf.where(high > low, round_to_uint8(tf.math.divide_no_nan((values - low) * 255, high - low)), pixels)


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


def convert_to_grayscale(pixels: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma in every channel."""
    if pixels.shape[-1] == 1:
        return pixels
    return tf.repeat(luma(pixels), 3, -1)


def color(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards grey (-1: a tenth of the colour is left) or away from it (1: nearly twice)."""
    return _blend(convert_to_grayscale(pixels), pixels, strength)


def contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Towards the mean grey or away from it."""
    mean = tf.floor(tf.reduce_mean(tf.cast(convert_to_grayscale(pixels), tf.float32)) + 0.5)
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
    smooth = tf.where(ring, tf.pad(round_to_uint8(inner), ((1, 1), (1, 1), (0, 0))), pixels)
    return _blend(smooth, pixels, strength)


def apply_with_probability(
    sample: dict[str, Any], seed: tf.Tensor, probability: float, function: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, Any]:
    """Changes the picture of a share of the samples, drawn by the seed, and moves nothing in it."""
    pixels = sample["image"]
    drawn = tf.random.stateless_uniform((), seed) < probability
    return sample | {"image": tf.cond(drawn, lambda: function(pixels), lambda: pixels)}


def _blend(origin: tf.Tensor, pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    start, values = tf.cast(origin, tf.float32), tf.cast(pixels, tf.float32)
    return round_to_uint8(start + (values - start) * (1 + 0.9 * strength))


_MATRICES: dict[Operation, Callable[[tf.Tensor, tf.Tensor], list]] = {
    rotate: make_rotation_matrix,
    shear_x: lambda strength, shape: [1, 0.3 * strength, 0, 0, 1, 0],
    shear_y: lambda strength, shape: [1, 0, 0, 0.3 * strength, 1, 0],
    translate_x: lambda strength, shape: [1, 0, 0.45 * strength * tf.cast(shape[1], tf.float32), 0, 1, 0],
    translate_y: lambda strength, shape: [1, 0, 0, 0, 1, 0.45 * strength * tf.cast(shape[0], tf.float32)],
}
"""Of the operations that move pixels: (strength, picture's shape) -> matrix."""
# Those of AugMix leave out what the corruptions of ImageNet-C, against which it is measured, consist of.
AUGMIX: tuple[Operation, ...] = (
    *(auto_contrast, equalize, posterize, rotate, solarize),
    *(shear_x, shear_y, translate_x, translate_y),
)
RAND_AUGMENT: tuple[Operation, ...] = (*AUGMIX, color, contrast, brightness, sharpness)
AUGMIX_PIXELWISE: tuple[Operation, ...] = tuple(operation for operation in AUGMIX if operation not in _MATRICES)
"""Those of AugMix that move nothing."""


def apply_random_operation(
    operations: tuple[Operation, ...], pixels: tf.Tensor, magnitude: float, seed: tf.Tensor
) -> tf.Tensor:
    """Applies one operation, drawn at random, with a strength of `magnitude` (0 to 10) in either direction."""
    which, strength = _sample_operation(operations, magnitude, seed)
    branches = [lambda operation=operation: operation(pixels, strength) for operation in operations]
    return tf.switch_case(which, branches)


def make_random_operation_matrix(
    operations: tuple[Operation, ...], shape: tf.Tensor, magnitude: float, seed: tf.Tensor
) -> tf.Tensor:
    """The matrix by which `one_of` of the same seed moves pixels, float32 (6,)."""
    which, strength = _sample_operation(operations, magnitude, seed)
    still = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrices = [_MATRICES[each](strength, shape) if each in _MATRICES else still for each in operations]
    return tf.stack([tf.stack([tf.cast(value, tf.float32) for value in matrix]) for matrix in matrices])[which]


def _sample_operation(
    operations: tuple[Operation, ...], magnitude: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which operation, and its strength."""
    which = tf.random.stateless_uniform((), seed, 0, len(operations), tf.int32)
    sign = tf.where(tf.random.stateless_uniform((), tf.random.experimental.stateless_fold_in(seed, 1)) < 0.5, -1.0, 1.0)
    return which, sign * magnitude / 10
