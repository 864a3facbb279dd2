"""SpecAugment (Park et al., arXiv 1904.08779) on waveforms."""

from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import Augment
from tfx_finetune.types.components import AUGMENTS


@AUGMENTS.takes("audio")
def spec_augment(times: int = 1, time: float = 0.1, bands: int = 1, band: float = 0.15) -> Augment:
    """Silences stretches of time and bands of frequency.

    Spectrograms are made inside of the model, where augments would become part of every export, so the masks act on
    the waveform: a stretch is set to zero, a band is taken out of the Fourier transform of the whole recording.

    Args:
        times: How many stretches, 0 or more.
        time: Longest one, as a share of the recording's length, 0 to 1.
        bands: How many bands, 0 or more.
        band: Widest one, as a share of the mel scale from 0 to the highest frequency, 0 to 1.
    """
    if min(times, bands) < 0 or not (0 <= time <= 1 and 0 <= band <= 1):
        received = f"times={times}, time={time}, bands={bands}, band={band}"
        raise UserError("spec_augment is out of range", received=received, allowed="counts; shares of 0 to 1")

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        length = tf.shape(samples)[0]
        first, second = tf.unstack(tf.random.split(seed))
        if bands:
            spectrum = tf.signal.rfft(samples)
            hertz = tf.linspace(0.0, 8_000.0, length // 2 + 1)
            mel = tf.math.log1p(hertz / 700) / tf.math.log1p(8_000.0 / 700)
            kept = tf.cast(_kept(mel, bands, band, second), tf.complex64)
            samples = tf.signal.irfft(spectrum * kept, [length])
        return sample | {"audio": samples * _kept(tf.linspace(0.0, 1.0, length), times, time, first)}

    return apply


def _kept(places: tf.Tensor, count: int, widest: float, seed: tf.Tensor) -> tf.Tensor:
    """0 for the places (n,), of 0 to 1, that one of the masks covers, 1 for the others."""
    drawn = tf.random.stateless_uniform((2, count, 1), seed)
    width = drawn[0] * widest
    start = drawn[1] * (1 - width)
    covered = tf.reduce_any((places >= start) & (places < start + width), axis=0)
    return tf.cast(~covered, tf.float32)
