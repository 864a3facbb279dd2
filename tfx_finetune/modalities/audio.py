"""Recordings: encoded bytes -> waveform -> model input.

soundfile decodes and soxr resamples, both outside of TensorFlow's graph, so a SavedModel takes prepared waveforms.
"""

import functools
import io
import re
from types import ModuleType
from typing import Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import MODALITIES, Card, Modality
from tfx_finetune.core.errors import UserError

Loudness = Literal["rms", "none"]

# Of telephones to those of studios; a header that says something else is broken.
_RATES = (1_000, 768_000)
# GSM 06.10 as telephone systems keep it has no header: frames of 33 bytes, each beginning with 1101.
_GSM_FRAME, _GSM_MARK = 33, 0xD0
_GSM = {"format": "RAW", "subtype": "GSM610", "samplerate": 8_000, "channels": 1}
# Samples are read so many seconds at a time, so that the end of a long file is never decompressed.
_BLOCK_SECONDS = 10
# The level of speech in recordings that are neither quiet nor clipped.
_TARGET = 0.1
# Below this (-80 dB of full scale) there is nothing but noise, which is not made louder.
_SILENT = 1e-4
_TRIM_FRAME = 0.01


@MODALITIES.register
def audio(
    card: Card,
    /,
    *,
    seconds: float = 0.0,
    max_seconds: float = 30.0,
    loudness: Loudness = "rms",
    trim: float = 40.0,
) -> Modality:
    """Recordings as WAV, FLAC, Ogg, MP3, AIFF or headerless GSM, of any rate and number of channels.

    Channels are averaged. A recording that is longer than the model's input keeps its middle, a shorter one gets
    silence on both sides.

    Args:
        card: Says the rate and the number of samples that the backbone wants.
        seconds: Length of the model's input; 0 takes the card's.
        max_seconds: What comes later in a recording is never read; an hour-long file is cut there.
        loudness: `rms` makes recordings equally loud (root mean square 0.1, less where peaks would pass 1), `none`
            leaves them as they are.
        trim: Silence before and behind a recording is cut: what is so many decibels quieter than its loudest 10
            milliseconds. 0 keeps it.

    Raises:
        UserError: An option is out of range.
    """
    if seconds < 0 or max_seconds <= 0 or trim < 0:
        received = f"seconds={seconds}, max_seconds={max_seconds}, trim={trim}"
        raise UserError("options of audio out of range", received=received, allowed="above 0, or 0 for none")
    size = round(seconds * card.rate) or card.size

    def decoded(raw: bytes) -> np.ndarray:
        samples = read(raw, card.rate, max_seconds)
        samples = trimmed(samples, card.rate, trim) if trim else samples
        return levelled(samples) if loudness == "rms" else samples

    def decode(raw: tf.Tensor) -> tf.Tensor:
        if raw.dtype != tf.string:  # a waveform of the card's rate
            return tf.cast(raw, tf.float32)
        return tf.ensure_shape(tf.numpy_function(decoded, [raw], tf.float32, stateful=False), (None,))

    return Modality(
        column="audio",
        decode=decode,
        prepare=lambda samples: fit(samples, size),
        shape=(size,),
        blank=lambda: tf.zeros((size,), tf.float32),
        portable=False,
        dtype="float32",
    )


def read(raw: bytes, rate: int, max_seconds: float) -> np.ndarray:
    """Decodes a recording.

    Args:
        raw: Content of a file.
        rate: Wanted samples a second.
        max_seconds: Later samples are not read.

    Returns:
        float32 (samples,) of -1 to 1, the mean of the channels.

    Raises:
        ValueError: It is no recording, broken, empty, or holds what is not a number; says which.
        UserError: soundfile or soxr is not installed.
    """
    soundfile = _library("soundfile")
    if not raw:
        raise ValueError("empty file")
    how = _GSM if _is_gsm(raw) else {}
    try:
        with soundfile.SoundFile(io.BytesIO(raw), **how) as file:
            known = file.samplerate
            if not _RATES[0] <= known <= _RATES[1]:
                raise ValueError(f"a header that says {known} samples a second")
            blocks, wanted = [], round(max_seconds * known)
            while wanted > 0 and len(block := file.read(min(wanted, _BLOCK_SECONDS * known), "float32", True)):
                blocks.append(block.mean(axis=1))
                wanted -= len(block)
    except soundfile.LibsndfileError as error:
        text = re.sub(r"^.*?BytesIO.*?>: ", "", str(error)).rstrip(".")
        raise ValueError(f"not a recording that can be read ({text})") from None
    if not blocks:
        raise ValueError("a recording without samples")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise ValueError("a recording with samples that are not numbers")
    if known != rate:
        samples = _library("soxr").resample(samples, known, rate)
    if not len(samples):
        raise ValueError("a recording without samples")
    return np.clip(samples, -1, 1).astype(np.float32)


def trimmed(samples: np.ndarray, rate: int, decibels: float) -> np.ndarray:
    """Cuts silence at both ends: 10 ms pieces that are so many decibels below the loudest; (samples,) -> (fewer,)."""
    frame = max(1, round(_TRIM_FRAME * rate))
    pieces = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    energy = np.square(pieces).mean(axis=1)
    loud = np.flatnonzero(energy > max(energy.max() * 10 ** (-decibels / 10), _SILENT**2))
    return samples[loud[0] * frame : (loud[-1] + 1) * frame] if len(loud) else samples


def levelled(samples: np.ndarray) -> np.ndarray:
    """Sets the root mean square to 0.1, or lower where the highest peak would pass 1; silence stays silence."""
    level = np.sqrt(np.square(samples).mean())
    if level < _SILENT:
        return samples
    return samples * np.float32(min(_TARGET / level, 1 / np.abs(samples).max()))


def fit(samples: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of a waveform, or all of it with zeros on both sides: float32 (samples,) -> (size,)."""
    length = tf.shape(samples)[0]
    start = tf.maximum(length - size, 0) // 2
    samples = samples[start : start + size]
    before = (size - tf.shape(samples)[0]) // 2
    return tf.ensure_shape(tf.pad(samples, [[before, size - tf.shape(samples)[0] - before]]), (size,))


def reason(error: tf.errors.OpError) -> str:
    """Why a recording cannot be decoded, in a few words, from the exception that decoding raised."""
    found = re.search(r"(?:ValueError|UserError): (.*)", error.message)
    return (found.group(1) if found else error.message.splitlines()[0])[:200]


def _is_gsm(raw: bytes) -> bool:
    marks = raw[::_GSM_FRAME]
    return len(raw) % _GSM_FRAME == 0 and all(mark & 0xF0 == _GSM_MARK for mark in marks)


@functools.cache
def _library(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"audio needs {name}", todo="pip install 'tfx_finetune[audio]'") from None
