"""Noise."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register_for("audio")
def noise(snr: tuple[float, float] = (10.0, 40.0)) -> AugmentFn:
    """Adds white noise; silence stays silence.

    Args:
        snr: Range of the recording's power over the noise's, in decibels.
    """
    if not snr[0] <= snr[1]:
        raise UserError("the range of noise is not a range", got=snr, expected="least <= most")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        first, second = tf.unstack(tf.random.split(seed))
        decibels = tf.random.stateless_uniform((), first, snr[0], snr[1])
        level = tf.sqrt(tf.reduce_mean(tf.square(samples))) * 10 ** (-decibels / 20)
        return sample | {"audio": samples + level * tf.random.stateless_normal(tf.shape(samples), second)}

    return apply
