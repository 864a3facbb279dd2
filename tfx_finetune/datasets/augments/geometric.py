"""Augments that move the pixels of one image together with its mask and boxes."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.datasets.augments.common import check_options
from tfx_finetune.datasets.augments.operations import make_rotation_matrix
from tfx_finetune.ops.geometry import (
    MIN_VISIBLE,
    crop_window,
    flip_horizontal,
    select_movable_fields,
    warp,
    warp_annotations,
)
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def flip(probability: float = 0.5) -> AugmentFn:
    """Flip images left to right.

    Args:
        probability: float, 0 to 1. Probability of a flip. Default 0.5.
    """
    check_options("flip", 0 <= probability <= 1, "0 <= probability <= 1", probability=probability)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        is_flipped = tf.random.stateless_uniform((), seed) < probability
        fields = select_movable_fields(sample)
        return sample | tf.cond(is_flipped, lambda: flip_horizontal(fields), lambda: fields)

    return apply


@AUGMENTS.register
def rotate(degrees: float = 15.0) -> AugmentFn:
    """Rotate images about the center by a random angle; pixels of the edge are repeated beyond it.

    Args:
        degrees: float, 0 to 180. Maximum angle in either direction. Default 15.
    """
    check_options("rotate", 0 <= degrees <= 180, "0 <= degrees <= 180", degrees=degrees)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        strength = tf.random.stateless_uniform((), seed, -1, 1)
        matrix = make_rotation_matrix(strength, tf.shape(sample["image"]), degrees)
        return warp_annotations(sample, matrix) | {"image": warp(sample["image"], matrix)}

    return apply


@AUGMENTS.register
def random_resized_crop(
    scale: tuple[float, float] = (0.6, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333),
    min_visible: float = MIN_VISIBLE,
) -> AugmentFn:
    """Crop a random rectangle, which is later resized to the model input (Szegedy et al., arXiv 1409.4842, section 6).

    Args:
        scale: Two floats in 0 to 1. Range of the area of the rectangle, as a fraction of the image area. Default
            (0.6, 1.0).
        ratio: Two floats > 0. Range of the aspect ratio (width / height), relative to that of the image. Default
            (0.75, 1.3333).
        min_visible: float, 0 to 1. Objects of which a smaller fraction is visible become crowd regions. Default 0.25.
    """
    check_options(
        "random_resized_crop",
        0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1] and 0 <= min_visible <= 1,
        "0 < min <= max for scale and ratio, scale <= 1, 0 <= min_visible <= 1",
        scale=scale,
        ratio=ratio,
        min_visible=min_visible,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        shape = tf.shape(sample["image"])[:2]
        area, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
        area = scale[0] + area * (scale[1] - scale[0])
        # The aspect ratio is log-uniform, so that wide and tall rectangles are equally likely.
        low, high = math.log(ratio[0]), math.log(ratio[1])
        stretch = tf.exp((low + aspect * (high - low)) / 2)
        relative_size = tf.minimum(tf.sqrt(area) * tf.stack([1 / stretch, stretch]), 1.0)
        size = tf.maximum(tf.cast(tf.round(relative_size * tf.cast(shape, tf.float32)), tf.int32), 1)
        num_positions = tf.cast(shape - size + 1, tf.float32)
        corner = tf.cast(tf.stack([top, left]) * num_positions, tf.int32)
        return crop_window(sample, corner, size, min_visible)

    return apply


@AUGMENTS.register
def scale_jitter(scale: tuple[float, float] = (0.5, 2.0), min_visible: float = MIN_VISIBLE) -> AugmentFn:
    """Enlarge or shrink an image at constant aspect ratio (Ghiasi et al., arXiv 2012.07177, section 3).

    An enlarged image is cropped, a shrunk image is padded with gray, whose mask is unlabeled. The result is later
    resized to the model input.

    Args:
        scale: Two floats >= 0.1. Range of the log-uniform scale factor. An image takes 1 / factor^2 of its memory.
            Default (0.5, 2.0).
        min_visible: float, 0 to 1. Objects of which a smaller fraction is visible become crowd regions. Default 0.25.
    """
    check_options(
        "scale_jitter",
        len(scale) == 2 and 0.1 <= scale[0] <= scale[1] and 0 <= min_visible <= 1,
        "0.1 <= min <= max for scale, 0 <= min_visible <= 1",
        scale=scale,
        min_visible=min_visible,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        shape = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
        random = tf.random.stateless_uniform((3,), seed)
        low, high = math.log(scale[0]), math.log(scale[1])
        factor = tf.exp(low + random[0] * (high - low))
        size = tf.maximum(tf.round(shape / factor), 1)
        # The window lies anywhere inside the image, or anywhere around it.
        corner = tf.round(random[1:] * (shape - size))
        return crop_window(sample, tf.cast(corner, tf.int32), tf.cast(size, tf.int32), min_visible)

    return apply
