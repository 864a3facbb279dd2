"""Front end of audio backbones: waveform to log-mel spectrogram, as layers that every export format supports.

The Fourier transform is a convolution with fixed kernels, and the mel filters are a matrix, so a TFLite file takes the
waveform and needs builtin operators only. These layers belong to no layer group: no phase trains them.
"""

import math
from typing import NamedTuple

import keras
import numpy as np

from tfx_finetune.core.errors import UserError

# Lowest power that is not taken for silence, dynamic range in decibels, and lowest maximum that is amplified to 1.
_MIN_POWER, _TOP_DB, _MIN_PEAK_DB = 1e-10, 80.0, -20.0


class MelConfig(NamedTuple):
    """Settings of a mel spectrogram.

    Attributes:
        sample_rate: Samples per second.
        mels: Number of filters, evenly spaced on the mel scale.
        f_min: Lower edge of the first filter in hertz.
        f_max: Upper edge of the last filter in hertz.
        window_length: Length of the Hann window in samples.
        hop_length: Samples between two frames.
        fft_length: Length of the Fourier transform, in whose middle the window is.
        mel_scale: `htk` (2595 log10(1 + f / 700)) or `slaney` (linear up to 1 kHz, then logarithmic).
    """

    sample_rate: int = 16_000
    mels: int = 64
    f_min: float = 60.0
    f_max: float = 7_600.0
    window_length: int = 400
    hop_length: int = 160
    fft_length: int = 512
    mel_scale: str = "htk"

    def count_frames(self, samples: int) -> int:
        """Return the number of complete frames in so many samples.

        Examples:
            >>> MelConfig().count_frames(16_000)
            97
        """
        return max(0, (samples - self.fft_length) // self.hop_length + 1)


def make_mel_config(sample_rate: int, mels: int) -> MelConfig:
    """Return settings with windows of 25 ms, 100 frames per second, and filters from 60 Hz to 0.475 * sample_rate.

    Args:
        sample_rate: int in [4000, 192000].
        mels: int in [8, 256]. Number of filters.

    Raises:
        UserError: If an argument is out of range.

    Examples:
        >>> make_mel_config(8_000, 64).f_max
        3800.0
    """
    if not 4_000 <= sample_rate <= 192_000 or not 8 <= mels <= 256:
        raise UserError(
            "Settings of the spectrogram are out of range",
            got=f"sample_rate={sample_rate}, mels={mels}",
            expected="sample_rate from 4000 to 192000, mels from 8 to 256",
        )
    window_length = sample_rate // 40 // 2 * 2
    hop_length = sample_rate // 100
    fft_length = 2 ** (window_length - 1).bit_length()
    while True:
        mel = MelConfig(sample_rate, mels, 60.0, 0.475 * sample_rate, window_length, hop_length, fft_length)
        # A narrow low filter may contain no frequency bin; a longer transform has more bins.
        if make_mel_filters(mel).any(axis=0).all():
            return mel
        fft_length *= 2


def make_waveform_input(size: int) -> keras.KerasTensor:
    """Make the input of an audio backbone, (batch, size)."""
    return keras.Input((size,), name="audio")


def compute_mel_power(wave: keras.KerasTensor, mel: MelConfig) -> keras.KerasTensor:
    """Compute the power of a waveform in each mel filter.

    Args:
        wave: Waveform (batch, samples).
        mel: Settings of the spectrogram.

    Returns:
        Power spectrogram (batch, frames, mels).
    """
    filters = make_mel_filters(mel)
    bins = np.flatnonzero(filters.any(axis=1))
    x = keras.layers.Reshape((wave.shape[1], 1), name="samples")(wave)
    if margin := (mel.fft_length - mel.window_length) // 2:
        x = keras.layers.Cropping1D(margin, name="margin")(x)
    options = {"use_bias": False, "trainable": False}
    dft = keras.layers.Conv1D(2 * len(bins), mel.window_length, mel.hop_length, name="fourier", **options)
    x = keras.ops.square(dft(x))
    # One matrix product adds the squares of the real and imaginary parts and applies the filters.
    dense = keras.layers.Dense(mel.mels, name="mel", **options)
    x = dense(x)
    dft.set_weights([make_dft_kernels(mel, bins)[:, None]])
    dense.set_weights([np.concatenate([filters[bins]] * 2)])
    return x


def convert_to_decibels(x: keras.KerasTensor) -> keras.KerasTensor:
    """Convert a power spectrogram to decibels (10 log10), clipped at 80 below the maximum of each sample.

    Args:
        x: Power spectrogram (batch, frames, mels).
    """
    x = keras.ops.log(keras.ops.maximum(x, _MIN_POWER)) * (10 / math.log(10))
    return keras.ops.maximum(x, keras.ops.max(x, axis=(1, 2), keepdims=True) - _TOP_DB)


def normalize_loudness(x: keras.KerasTensor) -> keras.KerasTensor:
    """Scale a power spectrogram to [0, 1]: 1 for the maximum of each sample, 0 for 80 decibels below it.

    Samples whose maximum is below -20 decibels are not amplified, so silence is 0.

    Args:
        x: Power spectrogram (batch, frames, mels).
    """
    x = convert_to_decibels(x)
    peak = keras.ops.maximum(keras.ops.max(x, axis=(1, 2), keepdims=True), _MIN_PEAK_DB)
    return keras.ops.relu((x - peak) * (1 / _TOP_DB) + 1.0)


def average_segments(tokens: keras.KerasTensor, segments: int) -> keras.KerasTensor:
    """Average over equal segments of time and concatenate the averages.

    Args:
        tokens: Features (batch, time, dim).
        segments: int in [1, time]. Number of segments, which overlap if the time is not divisible.

    Returns:
        Features (batch, segments * dim).

    Raises:
        UserError: If there are more segments than time steps.
    """
    time = tokens.shape[1]
    if not 1 <= segments <= time:
        raise UserError("The number of segments is out of range", got=segments, expected=f"1 to {time}")
    step = time // segments
    x = keras.layers.AveragePooling1D(time - step * (segments - 1), step, name="parts")(tokens)
    return keras.layers.Flatten(name="pooled")(x)


def make_dft_kernels(mel: MelConfig, bins: np.ndarray) -> np.ndarray:
    """Return the windowed cosines and sines of a discrete Fourier transform.

    Args:
        mel: Settings of the spectrogram.
        bins: Indexes (n,) of the frequency bins.

    Returns:
        Kernels (window_length, 2 * n), float32.
    """
    time = np.arange(mel.window_length)[:, None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / mel.window_length)
    angle = 2 * np.pi * time * bins / mel.fft_length
    return np.concatenate([hann * np.cos(angle), hann * np.sin(angle)], axis=1).astype(np.float32)


def make_mel_filters(mel: MelConfig) -> np.ndarray:
    """Return triangular mel filters of equal area (Slaney, Auditory Toolbox, 1998).

    Args:
        mel: Settings of the spectrogram.

    Returns:
        Filters (fft_length / 2 + 1, mels), float32.

    Examples:
        >>> make_mel_filters(MelConfig(mels=20)).shape
        (257, 20)
    """
    hertz = np.linspace(0, mel.sample_rate / 2, mel.fft_length // 2 + 1)
    low, high = (_to_mel(np.array(edge), mel.mel_scale) for edge in (mel.f_min, mel.f_max))
    edges = _to_hertz(np.linspace(low, high, mel.mels + 2), mel.mel_scale)
    widths = np.diff(edges)[:, None]
    distance = edges[:, None] - hertz
    triangles = np.maximum(0, np.minimum(-distance[:-2] / widths[:-1], distance[2:] / widths[1:]))
    return (triangles * 2 / (edges[2:] - edges[:-2])[:, None]).T.astype(np.float32)


def _to_mel(hertz: np.ndarray, mel_scale: str) -> np.ndarray:
    if mel_scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4))


def _to_hertz(mel: np.ndarray, mel_scale: str) -> np.ndarray:
    if mel_scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
