"""Random Gaussian blur."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.operations import apply_with_probability
from tfx_finetune.ops.pixels import round_to_uint8
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register
def gaussian_blur(sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5) -> AugmentFn:
    """Blurs pictures.

    Args:
        sigma: Range of the standard deviation in percent of the longer side, above 0 and up to 10.
        probability: Share of the samples, 0 to 1.
    """
    if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] <= 10 or not 0 <= probability <= 1:
        received = f"sigma={sigma}, probability={probability}"
        raise UserError("blur is out of range", got=received, expected="0 < least <= most <= 10, and 0 to 1")

    def blurred(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        side = tf.cast(tf.reduce_max(tf.shape(pixels)), tf.float32)
        deviation = tf.random.stateless_uniform((), seed, *sigma) / 100 * side
        reach = tf.cast(tf.math.ceil(3 * sigma[1] / 100 * side), tf.int32)
        kernel = tf.exp(-0.5 * (tf.cast(tf.range(-reach, reach + 1), tf.float32) / deviation) ** 2)
        kernel /= tf.reduce_sum(kernel)
        channels = pixels.shape[-1]
        x = _pad_edges(tf.cast(pixels, tf.float32), reach)[None]
        for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
            one = tf.tile(tf.reshape(kernel, shape), (1, 1, channels, 1))
            x = tf.nn.depthwise_conv2d(x, one, (1, 1, 1, 1), "VALID")
        return tf.ensure_shape(round_to_uint8(x[0]), pixels.shape)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        drawn = tf.random.experimental.stateless_fold_in(seed, 1)
        return apply_with_probability(sample, drawn, probability, lambda pixels: blurred(pixels, seed))

    return apply


def _pad_edges(pixels: tf.Tensor, reach: tf.Tensor) -> tf.Tensor:
    """Repeats the outermost pixels beyond the edge."""
    height, width = tf.unstack(tf.shape(pixels)[:2])
    rows = tf.clip_by_value(tf.range(-reach, height + reach), 0, height - 1)
    columns = tf.clip_by_value(tf.range(-reach, width + reach), 0, width - 1)
    return tf.gather(tf.gather(pixels, rows), columns, axis=1)
