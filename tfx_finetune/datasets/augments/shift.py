"""Place in time."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.takes("audio")
def shift(share: float = 0.1) -> Augment:
    """Moves a recording in time; what enters is silence.

    Preparing puts the middle of a recording into the middle of the model's input, so silence of twice the distance is
    put on one side, and nothing is lost of a recording that is shorter than the input.

    Args:
        share: How far at most, as a share of the recording's length, 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError("the share of shift is out of range", received=share, allowed="0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        drawn = tf.random.stateless_uniform((), seed, -share, share)
        silence = tf.cast(2 * drawn * tf.cast(tf.shape(samples)[0], tf.float32), tf.int32)
        return sample | {"audio": tf.pad(samples, [[tf.maximum(silence, 0), tf.maximum(-silence, 0)]])}

    return apply
