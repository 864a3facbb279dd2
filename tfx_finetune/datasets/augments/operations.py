"""Image operations of RandAugment and AugMix, with the results of Pillow.

Each operation takes uint8 pixels (height, width, channels) and a strength, float32 scalar in -1 to 1. Operations with
only one direction use its absolute value.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from tfx_finetune.ops.geometry import warp
from tfx_finetune.ops.image import rgb_to_luma, round_to_uint8

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def make_rotation_matrix(strength: tf.Tensor, shape: tf.Tensor, max_degrees: float = 30.0) -> list:
    """Make the matrix of `geometry.warp` for a rotation about the image center.

    Args:
        strength: float32 scalar, -1 to 1. Fraction of the maximum angle; positive is counter-clockwise.
        shape: Not used; the other matrices depend on the image shape.
        max_degrees: float. Maximum angle in degrees. Default 30.
    """
    angle = strength * (max_degrees * math.pi / 180)
    return [tf.cos(angle), -tf.sin(angle), 0, tf.sin(angle), tf.cos(angle), 0]


def rotate(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotate by up to 30 degrees."""
    return warp(pixels, make_rotation_matrix(strength, tf.shape(pixels)))


def shear_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shear horizontally by up to 0.3 pixels per row."""
    return warp(pixels, _MATRICES[shear_x](strength, tf.shape(pixels)))


def shear_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shear vertically by up to 0.3 pixels per column."""
    return warp(pixels, _MATRICES[shear_y](strength, tf.shape(pixels)))


def translate_x(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Translate horizontally by up to 0.45 of the width."""
    return warp(pixels, _MATRICES[translate_x](strength, tf.shape(pixels)))


def translate_y(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Translate vertically by up to 0.45 of the height."""
    return warp(pixels, _MATRICES[translate_y](strength, tf.shape(pixels)))


def auto_contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretch the values of each channel to 0 to 255; the strength is not used."""
    values = tf.cast(pixels, tf.float32)
    low, high = tf.reduce_min(values, (0, 1)), tf.reduce_max(values, (0, 1))
    return tf.where(high > low, round_to_uint8(tf.math.divide_no_nan((values - low) * 255, high - low)), pixels)


def equalize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Equalize the histogram of each channel; the strength is not used."""

    def equalize_channel(values: tf.Tensor) -> tf.Tensor:
        counts = tf.math.bincount(tf.cast(values, tf.int32), minlength=256, maxlength=256)
        nonzero_counts = tf.boolean_mask(counts, counts > 0)
        step = (tf.reduce_sum(nonzero_counts) - nonzero_counts[-1]) // 255
        counts_below = tf.cumsum(counts, exclusive=True)
        table = tf.where(step == 0, tf.range(256), (counts_below + step // 2) // tf.maximum(step, 1))
        return tf.gather(tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8), tf.cast(values, tf.int32))

    shape = tf.shape(pixels)
    channels = tf.transpose(tf.reshape(pixels, (-1, shape[-1])))
    equalized = tf.transpose(tf.map_fn(equalize_channel, channels))
    return tf.ensure_shape(tf.reshape(equalized, shape), pixels.shape)


def solarize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert all values from a threshold on: 256 (no value) at strength 0, 0 (all values) at strength 1."""
    threshold = 256 * (1 - tf.abs(strength))
    return tf.where(tf.cast(pixels, tf.float32) < threshold, pixels, 255 - pixels)


def posterize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Reduce each value to 8 (strength 0) to 4 bits (strength 1)."""
    step = 2 ** tf.cast(4 * tf.abs(strength), tf.int32)
    return tf.cast(tf.cast(pixels, tf.int32) // step * step, tf.uint8)


def convert_to_grayscale(pixels: tf.Tensor) -> tf.Tensor:
    """Replace every channel by the ITU-R BT.601 luma.

    Args:
        pixels: uint8 (height, width, 1 or 3).
    """
    if pixels.shape[-1] == 1:
        return pixels
    return tf.repeat(rgb_to_luma(pixels), 3, -1)


def color(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Change the saturation: a tenth of it at strength -1, 1.9 times at strength 1."""
    return _blend(convert_to_grayscale(pixels), pixels, strength)


def contrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Change the differences from the mean luma by a factor of 0.1 to 1.9."""
    mean = tf.floor(tf.reduce_mean(tf.cast(convert_to_grayscale(pixels), tf.float32)) + 0.5)
    return _blend(tf.zeros_like(pixels) + tf.cast(mean, tf.uint8), pixels, strength)


def brightness(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Change all values by a factor of 0.1 to 1.9."""
    return _blend(tf.zeros_like(pixels), pixels, strength)


def sharpness(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Change the differences from a smoothed image by a factor of 0.1 to 1.9; the outermost pixels do not change."""
    channels = pixels.shape[-1]
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, channels, 1))
    inner = tf.nn.depthwise_conv2d(tf.cast(pixels, tf.float32)[None], kernel, (1, 1, 1, 1), "VALID")[0]
    is_inner = tf.pad(tf.ones_like(inner, tf.bool), ((1, 1), (1, 1), (0, 0)))
    smooth = tf.where(is_inner, tf.pad(round_to_uint8(inner), ((1, 1), (1, 1), (0, 0))), pixels)
    return _blend(smooth, pixels, strength)


def _blend(base: tf.Tensor, pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Scale the differences of the pixels from a base image by 1 + 0.9 * strength."""
    start, values = tf.cast(base, tf.float32), tf.cast(pixels, tf.float32)
    return round_to_uint8(start + (values - start) * (1 + 0.9 * strength))


_MATRICES: dict[Operation, Callable[[tf.Tensor, tf.Tensor], list]] = {
    rotate: make_rotation_matrix,
    shear_x: lambda strength, shape: [1, 0.3 * strength, 0, 0, 1, 0],
    shear_y: lambda strength, shape: [1, 0, 0, 0.3 * strength, 1, 0],
    translate_x: lambda strength, shape: [1, 0, 0.45 * strength * tf.cast(shape[1], tf.float32), 0, 1, 0],
    translate_y: lambda strength, shape: [1, 0, 0, 0, 1, 0.45 * strength * tf.cast(shape[0], tf.float32)],
}
"""(strength, image shape) -> matrix of `geometry.warp`, for the operations that move pixels."""
# AugMix excludes the operations that overlap with the corruptions of ImageNet-C, on which the paper evaluates it.
AUGMIX: tuple[Operation, ...] = (
    *(auto_contrast, equalize, posterize, rotate, solarize),
    *(shear_x, shear_y, translate_x, translate_y),
)
RAND_AUGMENT: tuple[Operation, ...] = (*AUGMIX, color, contrast, brightness, sharpness)
AUGMIX_PIXELWISE: tuple[Operation, ...] = tuple(operation for operation in AUGMIX if operation not in _MATRICES)
"""Operations of AugMix that move no pixels."""


def apply_random_operation(
    operations: tuple[Operation, ...], pixels: tf.Tensor, magnitude: float, seed: tf.Tensor
) -> tf.Tensor:
    """Apply one random operation.

    Args:
        operations: Operations to choose from.
        pixels: uint8 (height, width, channels).
        magnitude: float, 0 to 10. Absolute strength of the operation; its sign is random.
        seed: int64 (2,). Stateless seed.
    """
    index, strength = _sample_operation(operations, magnitude, seed)
    branches = [lambda operation=operation: operation(pixels, strength) for operation in operations]
    return tf.switch_case(index, branches)


def make_random_operation_matrix(
    operations: tuple[Operation, ...], shape: tf.Tensor, magnitude: float, seed: tf.Tensor
) -> tf.Tensor:
    """Return the matrix by which `apply_random_operation` with the same arguments moves pixels.

    Args:
        operations: Operations to choose from.
        shape: int32 (3,). Shape of the image.
        magnitude: float, 0 to 10.
        seed: int64 (2,). Stateless seed.

    Returns:
        float32 (6,), as in `geometry.warp`; the identity for operations that move no pixels.
    """
    index, strength = _sample_operation(operations, magnitude, seed)
    identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrices = [_MATRICES[item](strength, shape) if item in _MATRICES else identity for item in operations]
    return tf.stack([tf.stack([tf.cast(value, tf.float32) for value in matrix]) for matrix in matrices])[index]


def _sample_operation(
    operations: tuple[Operation, ...], magnitude: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sample the index of an operation and its strength."""
    index = tf.random.stateless_uniform((), seed, 0, len(operations), tf.int32)
    sign = tf.where(tf.random.stateless_uniform((), tf.random.experimental.stateless_fold_in(seed, 1)) < 0.5, -1.0, 1.0)
    return index, sign * magnitude / 10
