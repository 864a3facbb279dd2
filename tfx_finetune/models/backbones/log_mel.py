"""The front end of audio towers: waveform -> mel spectrogram, as layers that every export can take.

The Fourier transform is a convolution with fixed kernels and the mel filters are a matrix, so that a TFLite file takes
the waveform itself and needs builtin operators only. Both are computed from formulas, and belong to no group: no phase
trains them.
"""

import math
from typing import NamedTuple

import keras
import numpy as np

from tfx_finetune.core.errors import UserError


class MelConfig(NamedTuple):
    """Settings of a mel spectrogram.

    Attributes:
        rate: Samples a second.
        mels: Filters, spaced evenly on the mel scale.
        low: Where the first one begins, in hertz.
        high: Where the last one ends, in hertz.
        window: Length of the Hann window, in samples.
        hop: Samples from one frame to the next.
        transform: Length of the Fourier transform; the window stands in its middle.
        scale: `htk` (2595 log10(1 + f / 700)) or `slaney` (linear up to 1 kHz, then logarithmic).
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
        """How many frames `samples` give; those that a frame does not fit into are left out."""
        return max(0, (samples - self.fft_length) // self.hop_length + 1)


def make_mel_config(sample_rate: int, mels: int) -> MelConfig:
    """Settings for a rate: windows of 25 ms, 100 frames a second, bands from 60 Hz to 0.95 of the highest frequency.

    Raises:
        UserError: The rate or the number of bands is out of range.
    """
    if not 4_000 <= sample_rate <= 192_000 or not 8 <= mels <= 256:
        raise UserError(
            "not the settings of a spectrogram",
            got=f"rate={sample_rate}, mels={mels}",
            expected="a rate of 4000 to 192000, 8 to 256 mels",
        )
    window = sample_rate // 40 // 2 * 2
    transform = 2 ** (window - 1).bit_length()
    # Fewer bins than low bands would leave some of these without any.
    while (
        not make_mel_filters(
            MelConfig(sample_rate, mels, 60.0, 0.475 * sample_rate, window, sample_rate // 100, transform)
        )
        .any(axis=0)
        .all()
    ):
        transform *= 2
    return MelConfig(sample_rate, mels, 60.0, 0.475 * sample_rate, window, sample_rate // 100, transform)


def make_waveform_input(size: int) -> keras.KerasTensor:
    """The input of audio towers, (batch, size)."""
    return keras.Input((size,), name="audio")


def compute_mel_power(wave: keras.KerasTensor, mel: MelConfig) -> keras.KerasTensor:
    """Power of a waveform (batch, samples) in each filter, (batch, frames, mels)."""
    matrix = make_mel_filters(mel)
    used = np.flatnonzero(matrix.any(axis=1))
    x = keras.layers.Reshape((wave.shape[1], 1), name="samples")(wave)
    if margin := (mel.fft_length - mel.window_length) // 2:
        x = keras.layers.Cropping1D(margin, name="margin")(x)
    fixed = {"use_bias": False, "trainable": False}
    dft = keras.layers.Conv1D(2 * len(used), mel.window_length, mel.hop_length, name="fourier", **fixed)
    x = keras.ops.square(dft(x))
    # The squares of the real and of the imaginary part are added by the same matrix product.
    dense = keras.layers.Dense(mel.mels, name="mel", **fixed)
    x = dense(x)
    dft.set_weights([make_dft_kernels(mel, used)[:, None]])
    dense.set_weights([np.concatenate([matrix[used]] * 2)])
    return x


def convert_to_decibels(x: keras.KerasTensor, top_db: float = 80.0, floor: float = 1e-10) -> keras.KerasTensor:
    """10 log10 of a power spectrogram, nothing lower than `range_` below the loudest value of the sample."""
    x = keras.ops.log(keras.ops.maximum(x, floor)) * (10 / math.log(10))
    return keras.ops.maximum(x, keras.ops.max(x, axis=(1, 2), keepdims=True) - top_db)


def normalize_loudness(x: keras.KerasTensor, top_db: float = 80.0, min_peak_db: float = -20.0) -> keras.KerasTensor:
    """A power spectrogram on a scale from 0 to 1: the loudest value of the sample is 1, what is `range_` decibels below
    it 0. A sample with nothing above `quiet` decibels is not made louder, so silence is 0.
    """
    x = convert_to_decibels(x, top_db)
    loudest = keras.ops.maximum(keras.ops.max(x, axis=(1, 2), keepdims=True), min_peak_db)
    return keras.ops.relu((x - loudest) * (1 / top_db) + 1.0)


def average_segments(tokens: keras.KerasTensor, segments: int) -> keras.KerasTensor:
    """Averages over equal parts of the time, side by side: (batch, time, dim) -> (batch, parts * dim).

    Raises:
        UserError: There is not so much time.
    """
    time = tokens.shape[1]
    if not 1 <= segments <= time:
        raise UserError("the time cannot be divided into so many parts", got=segments, expected=f"1 to {time}")
    # Where the time cannot be divided evenly, the parts overlap.
    step = time // segments
    x = keras.layers.AveragePooling1D(time - step * (segments - 1), step, name="parts")(tokens)
    return keras.layers.Flatten(name="pooled")(x)


def make_dft_kernels(mel: MelConfig, bins: np.ndarray) -> np.ndarray:
    """Windowed cosines and sines of the Fourier transform's `bins`, (window, 2 bins)."""
    time = np.arange(mel.window_length)[:, None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / mel.window_length)
    angle = 2 * np.pi * time * bins / mel.fft_length
    return np.concatenate([hann * np.cos(angle), hann * np.sin(angle)], axis=1).astype(np.float32)


def make_mel_filters(mel: MelConfig) -> np.ndarray:
    """Triangular filters of equal area (Slaney, Auditory Toolbox, 1998), (transform / 2 + 1, mels)."""
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
