"""Decoding and encoding of audio files with soundfile and soxr."""

import io
import re
from typing import Any

import numpy as np

from tfx_finetune.core.extras import import_package

# Sample rates from telephone to studio. A header with any other rate is corrupt.
_MIN_SAMPLE_RATE, _MAX_SAMPLE_RATE = 1_000, 768_000
# GSM 06.10 files of telephone systems have no header: frames of 33 bytes, each of which starts with the bits 1101.
_GSM_FRAME_BYTES, _GSM_SIGNATURE = 33, 0xD0
_GSM_OPTIONS: dict[str, Any] = {"format": "RAW", "subtype": "GSM610", "samplerate": 8_000, "channels": 1}
# Files are read in blocks, so that the rest of a long file is never decompressed.
_BLOCK_SECONDS = 10


def decode_audio(raw: bytes, sample_rate: int, max_seconds: float) -> np.ndarray:
    """Decode an audio file to a mono waveform.

    Args:
        raw: Content of a WAV, FLAC, Ogg, MP3, AIFF or headerless GSM file.
        sample_rate: int > 0. Sample rate of the result in Hz; soxr resamples if the file has another rate.
        max_seconds: float > 0. Only the first `max_seconds` seconds are read.

    Returns:
        float32 (samples,) in -1 to 1: the mean of all channels.

    Raises:
        ValueError: If the file is not audio, corrupt or empty, or if a sample is not finite. The message is a reason
            of a few words.
        UserError: If soundfile or soxr is not installed.
    """
    soundfile = import_package("soundfile", "audio")
    if not raw:
        raise ValueError("empty file")
    try:
        with soundfile.SoundFile(io.BytesIO(raw), **_format_options(raw)) as file:
            file_rate = file.samplerate
            if not _MIN_SAMPLE_RATE <= file_rate <= _MAX_SAMPLE_RATE:
                raise ValueError(f"invalid sample rate in the header: {file_rate} Hz")
            blocks, remaining = [], round(max_seconds * file_rate)
            while remaining > 0:
                block = file.read(min(remaining, _BLOCK_SECONDS * file_rate), "float32", True)
                if not len(block):
                    break
                blocks.append(block.mean(axis=1))
                remaining -= len(block)
    except soundfile.LibsndfileError as error:
        detail = re.sub(r"^.*?BytesIO.*?>: ", "", str(error)).rstrip(".")
        raise ValueError(f"not a readable audio file ({detail})") from None
    if not blocks:
        raise ValueError("audio without samples")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise ValueError("audio with samples that are not finite")
    if file_rate != sample_rate:
        samples = import_package("soxr", "audio").resample(samples, file_rate, sample_rate)
    if not len(samples):
        raise ValueError("audio without samples")
    return np.clip(samples, -1, 1).astype(np.float32)


def get_duration(raw: bytes) -> float:
    """Return the duration in seconds that the header of a decodable audio file states.

    Examples:
        >>> get_duration(encode_wav(np.zeros(8_000, np.float32), 16_000))
        0.5
    """
    with import_package("soundfile", "audio").SoundFile(io.BytesIO(raw), **_format_options(raw)) as file:
        return file.frames / file.samplerate


def encode_wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encode a waveform as a 16-bit WAV file.

    Args:
        samples: float32 (samples,) in -1 to 1.
        sample_rate: int > 0, in Hz.
    """
    stream = io.BytesIO()
    import_package("soundfile", "audio").write(stream, samples, sample_rate, "PCM_16", format="WAV")
    return stream.getvalue()


def _format_options(raw: bytes) -> dict[str, Any]:
    """Return the options of `SoundFile` that describe headerless GSM; empty for files with a header."""
    first_bytes = raw[::_GSM_FRAME_BYTES]
    is_gsm = len(raw) % _GSM_FRAME_BYTES == 0 and all(byte & 0xF0 == _GSM_SIGNATURE for byte in first_bytes)
    return _GSM_OPTIONS if is_gsm else {}
