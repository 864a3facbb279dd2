"""Recordings: encoded bytes -> waveform -> model input.

soundfile decodes and soxr resamples, both outside of TensorFlow's graph, so a SavedModel takes prepared waveforms.
"""

import re
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import import_package
from tfx_finetune.ops import audio as sound
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg, SamplePreview

Loudness = Literal["rms", "none"]

# The level of speech in recordings that are neither quiet nor clipped.
_TARGET_RMS = 0.1
# Below this (-80 dB of full scale) there is nothing but noise, which is not made louder.
_SILENCE_RMS = 1e-4
_TRIM_FRAME = 0.01


@MODALITIES.register
def audio(
    pretrained_cfg: PretrainedCfg,
    /,
    *,
    max_seconds: float = 30.0,
    loudness: Loudness = "rms",
    trim: float = 40.0,
) -> Modality:
    """Recordings as WAV, FLAC, Ogg, MP3, AIFF or headerless GSM, of any rate and number of channels.

    Channels are averaged. A recording that is longer than the model's input keeps its middle, a shorter one gets
    silence on both sides.

    Args:
        card: Says the rate and the number of samples that the backbone wants.
        max_seconds: What comes later in a recording is never read; an hour-long file is cut there. Above 0.
        loudness: `rms` makes recordings equally loud (root mean square 0.1, less where peaks would pass 1), `none`
            leaves them as they are.
        trim: Silence before and behind a recording is cut: what is so many decibels quieter than its loudest 10
            milliseconds. 0 keeps it.

    Raises:
        UserError: An option is out of range, or soundfile or soxr is not installed.
    """
    if max_seconds <= 0 or trim < 0:
        received = f"max_seconds={max_seconds}, trim={trim}"
        raise UserError("audio is out of range", got=received, expected="seconds above 0, trim from 0")
    # Where they are missing, every recording would count as unreadable.
    import_package("soundfile", "audio"), import_package("soxr", "audio")

    def decoded(raw: Any) -> np.ndarray:
        # Bytes from a graph, an array of them when called at once.
        samples = sound.decode_audio(
            raw if isinstance(raw, bytes) else raw.item(), pretrained_cfg.sample_rate, max_seconds
        )
        samples = trim_silence(samples, pretrained_cfg.sample_rate, trim) if trim else samples
        return normalize_rms(samples) if loudness == "rms" else samples

    def remark(raw: bytes) -> str:
        longer = sound.get_duration(raw) > max_seconds
        return f"longer than {max_seconds:g} s; what comes later is not read" if longer else ""

    def decode(raw: tf.Tensor) -> tf.Tensor:
        if raw.dtype != tf.string:  # a waveform of the card's rate, whole numbers of 16 bits
            return tf.cast(raw, tf.float32) / (32_768 if raw.dtype.is_integer else 1)
        return tf.ensure_shape(tf.numpy_function(decoded, [raw], tf.float32, stateful=False), (None,))

    return Modality(
        column="audio",
        decode=decode,
        prepare=lambda samples: crop_or_pad_center(samples, pretrained_cfg.size),
        shape=(pretrained_cfg.size,),
        empty_value=lambda: tf.zeros((pretrained_cfg.size,), tf.float32),
        portable=False,
        dtype="float32",
        unit="recordings",
        default_augments="shift(), speed(), noise()",
        error_message=describe_error,
        warning=remark,
        preview=lambda raw, prepared: SamplePreview(
            draw_spectrogram(prepared, pretrained_cfg.sample_rate),
            sound.encode_wav(prepared, pretrained_cfg.sample_rate),
        ),
    )


def trim_silence(samples: np.ndarray, sample_rate: int, decibels: float) -> np.ndarray:
    """Cuts silence at both ends: 10 ms pieces that are so many decibels below the loudest; (samples,) -> (fewer,)."""
    frame = max(1, round(_TRIM_FRAME * sample_rate))
    pieces = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    energy = np.square(pieces).mean(axis=1)
    loud = np.flatnonzero(energy > max(energy.max() * 10 ** (-decibels / 10), _SILENCE_RMS**2))
    return samples[loud[0] * frame : (loud[-1] + 1) * frame] if len(loud) else samples


def normalize_rms(samples: np.ndarray) -> np.ndarray:
    """Sets the root mean square to 0.1, or lower where the highest peak would pass 1; silence stays silence."""
    level = np.sqrt(np.square(samples).mean())
    if level < _SILENCE_RMS:
        return samples
    return samples * np.float32(min(_TARGET_RMS / level, 1 / np.abs(samples).max()))


def crop_or_pad_center(samples: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of a waveform, or all of it with zeros on both sides: float32 (samples,) -> (size,)."""
    length = tf.shape(samples)[0]
    start = tf.maximum(length - size, 0) // 2
    samples = samples[start : start + size]
    before = (size - tf.shape(samples)[0]) // 2
    return tf.ensure_shape(tf.pad(samples, [[before, size - tf.shape(samples)[0] - before]]), (size,))


def draw_spectrogram(samples: np.ndarray, sample_rate: int) -> bytes:
    """A spectrogram as a grey PNG, time from left to right, high sounds above; dark is loud, over 80 decibels."""
    frames = tf.signal.stft(samples, sample_rate // 40, sample_rate // 100)
    decibels = 20 * np.log10(np.maximum(np.abs(frames.numpy()), 1e-5)).T[::-1]
    grey = 255 * np.clip((decibels.max(initial=-20) - decibels) / 80, 0, 1)
    return tf.io.encode_png(grey.astype(np.uint8)[..., None]).numpy()


def describe_error(error: Exception) -> str:
    """Why a recording cannot be decoded, in a few words, from the exception that decoding raised."""
    text = getattr(error, "message", str(error))
    found = re.search(r"ValueError: (.*)", text)
    return (found.group(1) if found else first_line(error))[:200]
