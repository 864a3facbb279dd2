"""Audio modality: encoded file -> waveform -> model input.

soundfile and soxr decode and resample outside TensorFlow's graph, so the SavedModel takes prepared waveforms.
"""

import re
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import import_package
from tfx_finetune.ops.audio import decode_audio, encode_wav, get_duration
from tfx_finetune.types.components import MODALITIES, Modality, PretrainedCfg, SamplePreview

Loudness = Literal["rms", "none"]

# Level of speech in recordings that are neither quiet nor clipped.
_TARGET_RMS = 0.1
# Recordings below this level (-80 dB of full scale) contain only noise and are not amplified.
_SILENCE_RMS = 1e-4
_TRIM_FRAME_SECONDS = 0.01
_MAX_INT16 = 32_768


@MODALITIES.register
def audio(
    pretrained_cfg: PretrainedCfg,
    /,
    *,
    max_seconds: float = 30.0,
    loudness: Loudness = "rms",
    trim: float = 40.0,
) -> Modality:
    """Audio files as WAV, FLAC, Ogg, MP3, AIFF or headerless GSM, of any sample rate and number of channels.

    Channels are averaged. A recording that is longer than the model input is cropped to its middle, a shorter one is
    padded with silence on both sides.

    Args:
        pretrained_cfg: Sample rate and number of samples of the model input.
        max_seconds: float > 0. Only the first `max_seconds` seconds of a recording are read. Default 30.
        loudness: `rms` scales every recording to a root mean square of 0.1, or less if peaks would exceed 1. `none`
            keeps the loudness. Default `rms`.
        trim: float >= 0, in decibels. Silence at both ends is removed: 10 ms frames that are quieter than the loudest
            frame by more than `trim`. 0 keeps it. Default 40.

    Raises:
        UserError: If an option is out of range, or if soundfile or soxr is not installed.
    """
    if max_seconds <= 0 or trim < 0:
        raise UserError(
            "Options of audio() are out of range",
            got=f"max_seconds={max_seconds}, trim={trim}",
            expected="max_seconds > 0, trim >= 0",
        )
    # Without these packages, every recording would count as unreadable.
    import_package("soundfile", "audio"), import_package("soxr", "audio")

    def decode_numpy(raw: Any) -> np.ndarray:
        # tf.numpy_function passes bytes from a graph, but an array if it is called eagerly.
        content = raw if isinstance(raw, bytes) else raw.item()
        samples = decode_audio(content, pretrained_cfg.sample_rate, max_seconds)
        samples = trim_silence(samples, pretrained_cfg.sample_rate, trim) if trim else samples
        return normalize_rms(samples) if loudness == "rms" else samples

    def decode(raw: tf.Tensor) -> tf.Tensor:
        if raw.dtype != tf.string:  # a waveform of the right sample rate; integers are 16-bit samples
            return tf.cast(raw, tf.float32) / (_MAX_INT16 if raw.dtype.is_integer else 1)
        return tf.ensure_shape(tf.numpy_function(decode_numpy, [raw], tf.float32, stateful=False), (None,))

    def warn(raw: bytes) -> str:
        is_cut = get_duration(raw) > max_seconds
        return f"longer than {max_seconds:g} s; only the first {max_seconds:g} s are read" if is_cut else ""

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
        warning=warn,
        preview=lambda raw, prepared: SamplePreview(
            image=draw_spectrogram(prepared, pretrained_cfg.sample_rate),
            audio=encode_wav(prepared, pretrained_cfg.sample_rate),
        ),
    )


def trim_silence(samples: np.ndarray, sample_rate: int, decibels: float) -> np.ndarray:
    """Remove silence at both ends, in frames of 10 ms.

    Args:
        samples: float32 (samples,).
        sample_rate: int > 0, in Hz.
        decibels: float > 0. Frames that are quieter than the loudest frame by more than this are silence.

    Returns:
        float32 (trimmed samples,); the waveform itself if all frames are silent.
    """
    frame = max(1, round(_TRIM_FRAME_SECONDS * sample_rate))
    frames = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    energy = np.square(frames).mean(axis=1)
    loud_frames = np.flatnonzero(energy > max(energy.max() * 10 ** (-decibels / 10), _SILENCE_RMS**2))
    return samples[loud_frames[0] * frame : (loud_frames[-1] + 1) * frame] if len(loud_frames) else samples


def normalize_rms(samples: np.ndarray) -> np.ndarray:
    """Scale a waveform to a root mean square of 0.1, or less if the highest peak would exceed 1.

    Args:
        samples: float32 (samples,). Silence does not change.

    Examples:
        >>> normalize_rms(np.array([0.5, -0.5], np.float32)).round(6).tolist()
        [0.10000000149011612, -0.10000000149011612]
    """
    rms = np.sqrt(np.square(samples).mean())
    if rms < _SILENCE_RMS:
        return samples
    return samples * np.float32(min(_TARGET_RMS / rms, 1 / np.abs(samples).max()))


def crop_or_pad_center(samples: tf.Tensor, size: int) -> tf.Tensor:
    """Crop a waveform to its middle, or pad it with zeros on both sides.

    Args:
        samples: float32 (samples,).
        size: int >= 1. Number of samples of the result.

    Examples:
        >>> crop_or_pad_center(tf.constant([1.0, 2.0, 3.0]), 5).numpy().tolist()
        [0.0, 1.0, 2.0, 3.0, 0.0]
        >>> crop_or_pad_center(tf.constant([1.0, 2.0, 3.0]), 1).numpy().tolist()
        [2.0]
    """
    length = tf.shape(samples)[0]
    start = tf.maximum(length - size, 0) // 2
    samples = samples[start : start + size]
    before = (size - tf.shape(samples)[0]) // 2
    return tf.ensure_shape(tf.pad(samples, [[before, size - tf.shape(samples)[0] - before]]), (size,))


def draw_spectrogram(samples: np.ndarray, sample_rate: int) -> bytes:
    """Draw the spectrogram of a waveform as a grayscale PNG.

    Time runs from left to right, frequency from bottom to top; black is the maximum, white 80 decibels below it.

    Args:
        samples: float32 (samples,).
        sample_rate: int > 0, in Hz.
    """
    spectrum = tf.signal.stft(samples, sample_rate // 40, sample_rate // 100)
    decibels = 20 * np.log10(np.maximum(np.abs(spectrum.numpy()), 1e-5)).T[::-1]
    gray = 255 * np.clip((decibels.max(initial=-20) - decibels) / 80, 0, 1)
    return tf.io.encode_png(gray.astype(np.uint8)[..., None]).numpy()


def describe_error(error: Exception) -> str:
    """Return a short reason for an exception that decoding raised.

    Args:
        error: Exception of `Modality.decode`.
    """
    message = getattr(error, "message", str(error))
    match = re.search(r"ValueError: (.*)", message)
    return (match.group(1) if match else first_line(error))[:200]
