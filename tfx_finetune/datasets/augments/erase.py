"""Random erasing (Zhong et al., arXiv 1708.04896)."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import apply_with_probability
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def random_erasing(area: tuple[float, float] = (0.02, 0.33), probability: float = 0.5) -> AugmentFn:
    """Fills a rectangle with random pixels.

    Args:
        area: Range of the rectangle's area as a share of the picture's, within 0 to 1. Its width is 0.3 to 3.3 times
            its height, relative to the picture's own.
        probability: Share of the samples, 0 to 1.
    """
    if len(area) != 2 or not 0 < area[0] <= area[1] < 1 or not 0 <= probability <= 1:
        received = f"area={area}, probability={probability}"
        raise UserError("erase is out of range", got=received, expected="0 < least <= most < 1, and 0 to 1")

    def erased(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        share, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
        share = area[0] + share * (area[1] - area[0])
        wide = tf.exp((2 * aspect - 1) * math.log(3.3) / 2)
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        size = tf.minimum(tf.sqrt(share) * tf.stack([1 / wide, wide]), 1.0) * shape
        corner = tf.stack([top, left]) * (shape - size)
        rows, columns = (tf.range(shape[axis]) for axis in (0, 1))
        inside = _is_within(rows, corner[0], size[0])[:, None] & _is_within(columns, corner[1], size[1])[None, :]
        drawn = tf.random.experimental.stateless_fold_in(seed, 2)
        noise = tf.random.stateless_uniform(tf.shape(pixels), drawn, 0, 256, tf.int32)
        return tf.where(inside[..., None], tf.cast(noise, tf.uint8), pixels)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        drawn = tf.random.experimental.stateless_fold_in(seed, 1)
        return apply_with_probability(sample, drawn, probability, lambda pixels: erased(pixels, seed))

    return apply


def _is_within(positions: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return (positions + 0.5 >= start) & (positions + 0.5 < start + size)
