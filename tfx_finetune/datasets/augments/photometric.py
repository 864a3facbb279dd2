"""Augments that change the pixel values of one image and move nothing, so that mask and boxes stay."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.datasets.augments.common import apply_with_probability, check_options
from tfx_finetune.datasets.augments.operations import convert_to_grayscale
from tfx_finetune.ops.image import round_to_uint8
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def color_jitter(brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> AugmentFn:
    """Change brightness, contrast and saturation, each by a random factor between 1 - value and 1 + value.

    Args:
        brightness: float, 0 to 1. Range of the factor of all pixel values. Default 0.2.
        contrast: float, 0 to 1. Range of the factor of the differences from the image mean. Default 0.2.
        saturation: float, 0 to 1. Range of the factor of the differences from gray; no effect on grayscale images.
            Default 0.2.
    """
    check_options(
        "color_jitter",
        all(0 <= value <= 1 for value in (brightness, contrast, saturation)),
        "0 to 1",
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        pixels = tf.cast(sample["image"], tf.float32)
        ranges = tf.constant([brightness, contrast, saturation], tf.float32)
        brightness_factor, contrast_factor, saturation_factor = tf.unstack(
            1 + ranges * tf.random.stateless_uniform((3,), seed, -1, 1)
        )
        pixels *= brightness_factor
        mean = tf.reduce_mean(pixels, (0, 1), keepdims=True)
        pixels = mean + (pixels - mean) * contrast_factor
        if pixels.shape[-1] == 3:
            gray = tf.reduce_sum(pixels * [0.299, 0.587, 0.114], -1, keepdims=True)
            pixels = gray + (pixels - gray) * saturation_factor
        return sample | {"image": round_to_uint8(pixels)}

    return apply


@AUGMENTS.register
def random_grayscale(probability: float = 0.2) -> AugmentFn:
    """Convert images to grayscale; the number of channels stays.

    Args:
        probability: float, 0 to 1. Probability of the conversion. Default 0.2.
    """
    check_options("random_grayscale", 0 <= probability <= 1, "0 <= probability <= 1", probability=probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        return apply_with_probability(sample, seed, probability, convert_to_grayscale)

    return apply


@AUGMENTS.register
def gaussian_blur(sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5) -> AugmentFn:
    """Blur images with a Gaussian kernel.

    Args:
        sigma: Two floats, above 0 and up to 10. Range of the standard deviation in percent of the longer image side.
            Default (0.1, 2.0).
        probability: float, 0 to 1. Probability of a blur. Default 0.5.
    """
    check_options(
        "gaussian_blur",
        len(sigma) == 2 and 0 < sigma[0] <= sigma[1] <= 10 and 0 <= probability <= 1,
        "0 < min <= max <= 10 for sigma, 0 <= probability <= 1",
        sigma=sigma,
        probability=probability,
    )

    def blur(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        side = tf.cast(tf.reduce_max(tf.shape(pixels)), tf.float32)
        deviation = tf.random.stateless_uniform((), seed, *sigma) / 100 * side
        radius = tf.cast(tf.math.ceil(3 * sigma[1] / 100 * side), tf.int32)
        kernel = tf.exp(-0.5 * (tf.cast(tf.range(-radius, radius + 1), tf.float32) / deviation) ** 2)
        kernel /= tf.reduce_sum(kernel)
        channels = pixels.shape[-1]
        x = _pad_edges(tf.cast(pixels, tf.float32), radius)[None]
        for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
            kernel_1d = tf.tile(tf.reshape(kernel, shape), (1, 1, channels, 1))
            x = tf.nn.depthwise_conv2d(x, kernel_1d, (1, 1, 1, 1), "VALID")
        return tf.ensure_shape(round_to_uint8(x[0]), pixels.shape)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        decision_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        return apply_with_probability(sample, decision_seed, probability, lambda pixels: blur(pixels, seed))

    return apply


def _pad_edges(pixels: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Repeat the outermost pixels beyond the image edge."""
    height, width = tf.unstack(tf.shape(pixels)[:2])
    rows = tf.clip_by_value(tf.range(-radius, height + radius), 0, height - 1)
    columns = tf.clip_by_value(tf.range(-radius, width + radius), 0, width - 1)
    return tf.gather(tf.gather(pixels, rows), columns, axis=1)


@AUGMENTS.register
def random_erasing(area: tuple[float, float] = (0.02, 0.33), probability: float = 0.5) -> AugmentFn:
    """Fill a random rectangle with random pixels (Zhong et al., arXiv 1708.04896).

    Args:
        area: Two floats between 0 and 1. Range of the area of the rectangle, as a fraction of the image area. Its
            aspect ratio is 0.3 to 3.3, relative to that of the image. Default (0.02, 0.33).
        probability: float, 0 to 1. Probability of a rectangle. Default 0.5.
    """
    check_options(
        "random_erasing",
        len(area) == 2 and 0 < area[0] <= area[1] < 1 and 0 <= probability <= 1,
        "0 < min <= max < 1 for area, 0 <= probability <= 1",
        area=area,
        probability=probability,
    )

    def erase(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        fraction, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
        fraction = area[0] + fraction * (area[1] - area[0])
        stretch = tf.exp((2 * aspect - 1) * math.log(3.3) / 2)
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        size = tf.minimum(tf.sqrt(fraction) * tf.stack([1 / stretch, stretch]), 1.0) * shape
        corner = tf.stack([top, left]) * (shape - size)
        rows, columns = (tf.range(shape[axis]) for axis in (0, 1))
        inside = _is_within(rows, corner[0], size[0])[:, None] & _is_within(columns, corner[1], size[1])[None, :]
        noise_seed = tf.random.experimental.stateless_fold_in(seed, 2)
        noise = tf.random.stateless_uniform(tf.shape(pixels), noise_seed, 0, 256, tf.int32)
        return tf.where(inside[..., None], tf.cast(noise, tf.uint8), pixels)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        decision_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        return apply_with_probability(sample, decision_seed, probability, lambda pixels: erase(pixels, seed))

    return apply


def _is_within(positions: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return (positions + 0.5 >= start) & (positions + 0.5 < start + size)
