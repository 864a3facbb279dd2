"""Recordings as bytes: what several components read. soundfile decodes them, soxr resamples them."""

import io
import re

import numpy as np

from tfx_finetune.core.extras import import_package

# Of telephones to those of studios; a header that says something else is broken.
_RATES = (1_000, 768_000)
# GSM 06.10 as telephone systems keep it has no header: frames of 33 bytes, each beginning with 1101.
_GSM_FRAME, _GSM_MARK = 33, 0xD0
_GSM = {"format": "RAW", "subtype": "GSM610", "samplerate": 8_000, "channels": 1}
# Samples are read so many seconds at a time, so that the end of a long file is never decompressed.
_BLOCK_SECONDS = 10


def decode_audio(raw: bytes, sample_rate: int, max_seconds: float) -> np.ndarray:
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
    soundfile = import_package("soundfile", "audio")
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
    if known != sample_rate:
        samples = import_package("soxr", "audio").resample(samples, known, sample_rate)
    if not len(samples):
        raise ValueError("a recording without samples")
    return np.clip(samples, -1, 1).astype(np.float32)


def get_duration(raw: bytes) -> float:
    """Length of a recording that `read` can read, as its header has it."""
    with import_package("soundfile", "audio").SoundFile(io.BytesIO(raw), **(_GSM if _is_gsm(raw) else {})) as file:
        return file.frames / file.samplerate


def encode_wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """A waveform, float32 (samples,) of -1 to 1, as a WAV file of 16 bits."""
    stream = io.BytesIO()
    import_package("soundfile", "audio").write(stream, samples, sample_rate, "PCM_16", format="WAV")
    return stream.getvalue()


def _is_gsm(raw: bytes) -> bool:
    marks = raw[::_GSM_FRAME]
    return len(raw) % _GSM_FRAME == 0 and all(mark & 0xF0 == _GSM_MARK for mark in marks)
