"""Loudness."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register_for("audio")
def gain(decibels: float = 6.0) -> AugmentFn:
    """Makes a recording louder or quieter; no peak passes 1.

    Args:
        decibels: By how much at most, either way, 0 or more.
    """
    if decibels < 0:
        raise UserError("decibels of gain are out of range", got=decibels, expected="0 or more")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        drawn = tf.random.stateless_uniform((), seed, -decibels, decibels)
        return sample | {"audio": tf.clip_by_value(sample["audio"] * 10 ** (drawn / 20), -1.0, 1.0)}

    return apply
