"""Augments of waveforms."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.augments.common import check_options
from tfx_finetune.ops.audio import decode_audio
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS

_MAX_BACKGROUND_SECONDS = 60.0
_MAX_BACKGROUND_FILES = 50


@AUGMENTS.register_for("audio")
def gain(decibels: float = 6.0) -> AugmentFn:
    """Change the loudness of a recording by a random gain; peaks are clipped to -1 to 1.

    Args:
        decibels: float >= 0. Maximum gain in either direction. Default 6.
    """
    check_options("gain", decibels >= 0, "decibels >= 0", decibels=decibels)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        gain_decibels = tf.random.stateless_uniform((), seed, -decibels, decibels)
        return sample | {"audio": tf.clip_by_value(sample["audio"] * 10 ** (gain_decibels / 20), -1.0, 1.0)}

    return apply


@AUGMENTS.register_for("audio")
def shift(max_shift: float = 0.1) -> AugmentFn:
    """Shift a recording in time and fill the gap with silence.

    The model input is the middle of a recording. Silence of twice the shift is therefore added on one side, and a
    recording that is shorter than the input loses nothing.

    Args:
        max_shift: float, 0 to 1. Maximum shift in either direction, as a fraction of the recording's length. Default
            0.1.
    """
    check_options("shift", 0 <= max_shift <= 1, "0 <= max_shift <= 1", max_shift=max_shift)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        fraction = tf.random.stateless_uniform((), seed, -max_shift, max_shift)
        silence = tf.cast(2 * fraction * tf.cast(tf.shape(samples)[0], tf.float32), tf.int32)
        return sample | {"audio": tf.pad(samples, [[tf.maximum(silence, 0), tf.maximum(-silence, 0)]])}

    return apply


@AUGMENTS.register_for("audio")
def speed(max_factor: float = 1.2) -> AugmentFn:
    """Change speed and pitch of a recording together (Ko et al., Interspeech 2015).

    Samples are interpolated linearly, which attenuates the highest frequencies a little.

    Args:
        max_factor: float >= 1. The speed factor is log-uniform between 1 / max_factor and max_factor. Default 1.2.
    """
    check_options("speed", max_factor >= 1, "max_factor >= 1", max_factor=max_factor)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        factor = tf.exp(tf.random.stateless_uniform((), seed, -math.log(max_factor), math.log(max_factor)))
        length = tf.shape(samples)[0]
        # float32 does not represent all integers above 2^24, so positions are float64.
        count = tf.cast(tf.math.ceil(tf.cast(length, tf.float64) / tf.cast(factor, tf.float64)), tf.int32)
        positions = tf.cast(tf.range(count), tf.float64) * tf.cast(factor, tf.float64)
        before = tf.minimum(tf.cast(positions, tf.int32), tf.maximum(length - 1, 0))
        after = tf.minimum(before + 1, tf.maximum(length - 1, 0))
        weight = tf.cast(positions - tf.floor(positions), tf.float32)
        return sample | {"audio": (1 - weight) * tf.gather(samples, before) + weight * tf.gather(samples, after)}

    return apply


@AUGMENTS.register_for("audio")
def noise(snr: tuple[float, float] = (10.0, 40.0)) -> AugmentFn:
    """Add white noise; silence stays silent.

    Args:
        snr: Two floats. Range of the signal-to-noise ratio in decibels. Default (10, 40).
    """
    check_options("noise", snr[0] <= snr[1], "min <= max for snr", snr=snr)

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        snr_seed, noise_seed = tf.unstack(tf.random.split(seed))
        decibels = tf.random.stateless_uniform((), snr_seed, snr[0], snr[1])
        level = tf.sqrt(tf.reduce_mean(tf.square(samples))) * 10 ** (-decibels / 20)
        return sample | {"audio": samples + level * tf.random.stateless_normal(tf.shape(samples), noise_seed)}

    return apply


@AUGMENTS.register_for("audio")
def background_noise(
    path: str, snr: tuple[float, float] = (5.0, 25.0), probability: float = 0.5, sample_rate: int = 16_000
) -> AugmentFn:
    """Mix a recording with a random part of background recordings, such as street noise or music.

    Args:
        path: Folder of background recordings. The first minute of up to 50 files is used.
        snr: Two floats. Range of the signal-to-noise ratio in decibels. Default (5, 25).
        probability: float, 0 to 1. Probability of a background. Default 0.5.
        sample_rate: int > 0. Sample rate of the backbone in Hz. Default 16000.

    Raises:
        UserError: If the folder has no recordings, if a recording is not readable, or if an option is out of range.
    """
    check_options(
        "background_noise",
        snr[0] <= snr[1] and 0 <= probability <= 1 and sample_rate > 0,
        "min <= max for snr, 0 <= probability <= 1, sample_rate > 0",
        snr=snr,
        probability=probability,
        sample_rate=sample_rate,
    )
    files = tuple(_find_recordings(path))

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples, background = sample["audio"], tf.constant(_concatenate_recordings(files, sample_rate))
        decision, snr_position, start = tf.unstack(tf.random.stateless_uniform((3,), seed))
        # The first recording follows the last one.
        background_length = background.shape[0]
        positions = tf.cast(start * background_length, tf.int32) + tf.range(tf.shape(samples)[0])
        part = tf.gather(background, positions % background_length)
        amplitude_ratio = 10 ** (-(snr[0] + snr_position * (snr[1] - snr[0])) / 20)
        level = amplitude_ratio * tf.sqrt(_compute_power(samples) / tf.maximum(_compute_power(part), 1e-10))
        mixed = tf.clip_by_value(samples + level * part, -1.0, 1.0)
        return sample | {"audio": tf.where(decision < probability, mixed, samples)}

    return apply


def _compute_power(samples: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(samples))


def _find_recordings(path: str) -> list[Path]:
    folder = Path(path).expanduser()
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    if not files:
        raise UserError("The folder of background_noise() has no recordings", got=path)
    return files[:_MAX_BACKGROUND_FILES]


@functools.lru_cache(maxsize=2)
def _concatenate_recordings(files: tuple[Path, ...], sample_rate: int) -> np.ndarray:
    """Decode recordings, normalize each to a root mean square of 1 and concatenate them."""
    waveforms = []
    for file in files:
        try:
            samples = decode_audio(file.read_bytes(), sample_rate, _MAX_BACKGROUND_SECONDS)
        except ValueError as error:
            raise UserError(
                "A recording of background_noise() is not readable",
                got=f"{file} ({error})",
                hint="remove the file from the folder",
            ) from None
        waveforms.append(samples / max(float(np.sqrt(np.square(samples).mean())), 1e-5))
    return np.concatenate(waveforms)


@AUGMENTS.register_for("audio")
def spec_augment(time_masks: int = 1, max_time: float = 0.1, freq_masks: int = 1, max_freq: float = 0.15) -> AugmentFn:
    """Mask random time intervals and frequency bands of a waveform (SpecAugment, Park et al., arXiv 1904.08779).

    Spectrograms are computed inside the model, where an augment would become part of every export. The masks therefore
    act on the waveform: a time interval is set to zero, and a band is removed from the Fourier transform of the whole
    recording.

    Args:
        time_masks: int >= 0. Number of time intervals. Default 1.
        max_time: float, 0 to 1. Maximum length of a time interval, as a fraction of the recording. Default 0.1.
        freq_masks: int >= 0. Number of frequency bands. Default 1.
        max_freq: float, 0 to 1. Maximum width of a band, as a fraction of the mel scale from 0 to 8 kHz. Default 0.15.
    """
    check_options(
        "spec_augment",
        min(time_masks, freq_masks) >= 0 and 0 <= max_time <= 1 and 0 <= max_freq <= 1,
        "time_masks >= 0, freq_masks >= 0, 0 <= max_time <= 1, 0 <= max_freq <= 1",
        time_masks=time_masks,
        max_time=max_time,
        freq_masks=freq_masks,
        max_freq=max_freq,
    )

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples = sample["audio"]
        length = tf.shape(samples)[0]
        time_seed, freq_seed = tf.unstack(tf.random.split(seed))
        if freq_masks:
            spectrum = tf.signal.rfft(samples)
            hertz = tf.linspace(0.0, 8_000.0, length // 2 + 1)
            mel = tf.math.log1p(hertz / 700) / tf.math.log1p(8_000.0 / 700)
            band_mask = tf.cast(_make_keep_mask(mel, freq_masks, max_freq, freq_seed), tf.complex64)
            samples = tf.signal.irfft(spectrum * band_mask, [length])
        time_mask = _make_keep_mask(tf.linspace(0.0, 1.0, length), time_masks, max_time, time_seed)
        return sample | {"audio": samples * time_mask}

    return apply


def _make_keep_mask(positions: tf.Tensor, count: int, max_width: float, seed: tf.Tensor) -> tf.Tensor:
    """Make a float32 mask (n,) that is 0 in `count` random intervals and 1 elsewhere.

    Args:
        positions: float32 (n,), 0 to 1.
        count: int >= 0. Number of intervals.
        max_width: float, 0 to 1. Maximum width of an interval.
        seed: int64 (2,). Stateless seed.
    """
    random = tf.random.stateless_uniform((2, count, 1), seed)
    width = random[0] * max_width
    start = random[1] * (1 - width)
    is_masked = tf.reduce_any((positions >= start) & (positions < start + width), axis=0)
    return tf.cast(~is_masked, tf.float32)
