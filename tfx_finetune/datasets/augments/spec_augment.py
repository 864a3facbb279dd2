"""SpecAugment (Park et al., arXiv 1904.08779) on waveforms."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.register_for("audio")
def spec_augment(time_masks: int = 1, max_time: float = 0.1, freq_masks: int = 1, max_freq: float = 0.15) -> AugmentFn:
    """Silences stretches of time and bands of frequency.

    Spectrograms are made inside of the model, where augments would become part of every export, so the masks act on
    the waveform: a stretch is set to zero, a band is taken out of the Fourier transform of the whole recording.

    Args:
        times: How many stretches, 0 or more.
        time: Longest one, as a share of the recording's length, 0 to 1.
        bands: How many bands, 0 or more.
        band: Widest one, as a share of the mel scale from 0 to the highest frequency, 0 to 1.
    """
    if min(time_masks, freq_masks) < 0 or not (0 <= max_time <= 1 and 0 <= max_freq <= 1):
        received = f"times={time_masks}, time={max_time}, bands={freq_masks}, band={max_freq}"
        raise UserError("spec_augment is out of range", got=received, expected="counts; shares of 0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        length = tf.shape(samples)[0]
        first, second = tf.unstack(tf.random.split(seed))
        if freq_masks:
            spectrum = tf.signal.rfft(samples)
            hertz = tf.linspace(0.0, 8_000.0, length // 2 + 1)
            mel = tf.math.log1p(hertz / 700) / tf.math.log1p(8_000.0 / 700)
            kept = tf.cast(_make_keep_mask(mel, freq_masks, max_freq, second), tf.complex64)
            samples = tf.signal.irfft(spectrum * kept, [length])
        return sample | {"audio": samples * _make_keep_mask(tf.linspace(0.0, 1.0, length), time_masks, max_time, first)}

    return apply


def _make_keep_mask(positions: tf.Tensor, count: int, max_width: float, seed: tf.Tensor) -> tf.Tensor:
    """0 for the places (n,), of 0 to 1, that one of the masks covers, 1 for the others."""
    drawn = tf.random.stateless_uniform((2, count, 1), seed)
    width = drawn[0] * max_width
    start = drawn[1] * (1 - width)
    covered = tf.reduce_any((positions >= start) & (positions < start + width), axis=0)
    return tf.cast(~covered, tf.float32)
