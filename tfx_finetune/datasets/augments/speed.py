"""Speed and pitch together, as of a tape (Ko et al., Audio Augmentation for Speech Recognition, Interspeech 2015)."""

import math
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register_for("audio")
def speed(max_factor: float = 1.2) -> AugmentFn:
    """Plays a recording faster and higher, or slower and lower.

    Samples are interpolated linearly, which dampens the highest sounds a little.

    Args:
        most: The factor, as a multiple or as a fraction, 1 or more; all between are equally likely on a logarithmic
            scale.
    """
    if max_factor < 1:
        raise UserError("most of speed is out of range", got=max_factor, expected="1 or more")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        factor = tf.exp(tf.random.stateless_uniform((), seed, -math.log(max_factor), math.log(max_factor)))
        length = tf.shape(samples)[0]
        # Whole numbers above 2^24 are no floats, so positions are counted in float64.
        count = tf.cast(tf.math.ceil(tf.cast(length, tf.float64) / tf.cast(factor, tf.float64)), tf.int32)
        places = tf.cast(tf.range(count), tf.float64) * tf.cast(factor, tf.float64)
        before = tf.minimum(tf.cast(places, tf.int32), tf.maximum(length - 1, 0))
        after = tf.minimum(before + 1, tf.maximum(length - 1, 0))
        weight = tf.cast(places - tf.floor(places), tf.float32)
        mixed = (1 - weight) * tf.gather(samples, before) + weight * tf.gather(samples, after)
        return sample | {"audio": mixed}

    return apply
