"""Place in time."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register_for("audio")
def shift(max_shift: float = 0.1) -> AugmentFn:
    """Moves a recording in time; what enters is silence.

    Preparing puts the middle of a recording into the middle of the model's input, so silence of twice the distance is
    put on one side, and nothing is lost of a recording that is shorter than the input.

    Args:
        share: How far at most, as a share of the recording's length, 0 to 1.
    """
    if not 0 <= max_shift <= 1:
        raise UserError("the share of shift is out of range", got=max_shift, expected="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        drawn = tf.random.stateless_uniform((), seed, -max_shift, max_shift)
        silence = tf.cast(2 * drawn * tf.cast(tf.shape(samples)[0], tf.float32), tf.int32)
        return sample | {"audio": tf.pad(samples, [[tf.maximum(silence, 0), tf.maximum(-silence, 0)]])}

    return apply
