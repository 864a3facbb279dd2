"""Audio: decoding of every format, sample rate and number of channels, and reasons for unreadable files."""

import io
import struct
import wave

import numpy as np
import pytest
import scipy.signal
import soundfile
import tensorflow as tf

from tests.helpers.assets import fetch_asset
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.validation import ContentDecoder, check_contents, make_decoder
from tfx_finetune.ops.audio import decode_audio
from tfx_finetune.types.components import MODALITIES, PretrainedCfg

CFG = PretrainedCfg(size=16_000, sample_rate=16_000)


def tone(rate=16_000, seconds=0.5, hertz=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encode(samples, rate=16_000, **options):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **({"format": "WAV"} | options))
    return stream.getvalue()


def modality(cfg=CFG, **options):
    return MODALITIES.build(Spec("audio", (), options), cfg)


def decode(raw, cfg=CFG, **options):
    return modality(cfg, **{"loudness": "none", "trim": 0.0, **options}).decode(tf.constant(raw)).numpy()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"format": "WAV", "subtype": "PCM_16"}, 1e-4),
        ({"format": "WAV", "subtype": "PCM_24"}, 1e-6),
        ({"format": "WAV", "subtype": "FLOAT"}, 0),
        ({"format": "WAV", "subtype": "ULAW"}, 2e-2),
        ({"format": "FLAC"}, 1e-4),
        ({"format": "OGG", "subtype": "VORBIS"}, 5e-2),
        ({"format": "OGG", "subtype": "OPUS"}, 0.1),
        ({"format": "MP3"}, 5e-2),
        ({"format": "AIFF"}, 1e-4),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_formats(options, tolerance):
    """Decoding restores the waveform; lossy formats are close to it and may add silence at the ends."""
    samples = tone()
    waveform = decode(encode(samples, **options))
    if len(waveform) == len(samples):
        assert np.abs(waveform - samples).max() <= tolerance
    else:
        lags = scipy.signal.correlate(waveform, samples, "valid") if len(waveform) > len(samples) else [0]
        start = int(np.argmax(lags))
        assert np.abs(waveform[start : start + len(samples)] - samples).max() <= tolerance


def test_channels_are_averaged():
    """The waveform is the mean of two or six channels."""
    left, right = tone(hertz=300), tone(hertz=500)
    assert np.allclose(decode(encode(np.stack([left, right], 1), subtype="FLOAT")), (left + right) / 2, atol=1e-7)
    six = np.stack([left] * 5 + [right], 1)
    assert np.allclose(decode(encode(six, subtype="FLOAT")), (5 * left + right) / 6, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_agrees_with_scipy(rate):
    """soxr agrees with scipy's polyphase filters for frequencies in both pass bands, away from the ends."""
    samples = sum(tone(rate, hertz=hertz, level=0.1) for hertz in (200, 1_000, 3_000))
    waveform = decode(encode(samples, rate, subtype="FLOAT"))
    divisor = np.gcd(rate, 16_000)
    reference = scipy.signal.resample_poly(samples, 16_000 // divisor, rate // divisor)
    assert abs(len(waveform) - len(reference)) <= 1
    assert np.abs(waveform[800:7_000] - reference[800:7_000]).max() < 2e-3


def test_frequencies_above_nyquist_are_removed():
    """Without a filter, 11 kHz would appear as 5 kHz at a sample rate of 16 kHz."""
    assert np.abs(decode(encode(tone(48_000, hertz=11_000), 48_000, subtype="FLOAT"))[800:7_000]).max() < 1e-3


def test_gsm_without_a_header():
    """Headerless GSM of telephone systems is decoded: 33 bytes for 160 samples."""
    stream = io.BytesIO()
    soundfile.write(stream, tone(8_000), 8_000, format="RAW", subtype="GSM610")
    raw = stream.getvalue()
    assert len(raw) % 33 == 0
    waveform = decode(raw, PretrainedCfg(size=4_000, sample_rate=8_000))
    assert np.corrcoef(waveform[400:3_600], tone(8_000)[400:3_600])[0, 1] > 0.95


def test_only_the_start_of_a_long_file_is_read(monkeypatch):
    """The rest of an hour is not decompressed."""
    raw = encode(np.tile(tone(1_000, 1, 100), 3_600), 1_000, format="FLAC")
    read, counts = soundfile.SoundFile.read, []

    def counting(self, frames, *args, **kwargs):
        counts.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert len(decode_audio(raw, 1_000, 25.0)) == 25_000
    assert counts == [10_000, 10_000, 5_000]


def wav_with_rate(rate):
    """Return a WAV file with a wrong sample rate in its header."""
    raw = bytearray(encode(tone()))
    raw[24:28] = struct.pack("<I", rate)
    return bytes(raw)


BAD = {
    "empty file": b"",
    "not a readable audio file": b"\x89PNG not a sound at all",
    "audio without samples": encode(np.zeros(0, np.float32)),
    "audio with samples that are not finite": encode(np.array([0, np.nan, 0.1], np.float32), subtype="FLOAT"),
    "invalid sample rate in the header: 3 Hz": wav_with_rate(3),
    "invalid sample rate in the header: 2000000000 Hz": wav_with_rate(2_000_000_000),
}


@pytest.mark.parametrize("reason", BAD)
def test_unreadable_recordings_have_a_reason(reason):
    """The survey gives an unreadable recording a reason of one line and accepts the readable one."""
    audio = modality()
    decoder = ContentDecoder(make_decoder(audio.decode), audio.error_message)
    readable, unreadable = check_contents([encode(tone()), BAD[reason]], False, decoder)
    assert readable.digest
    assert not readable.error
    assert not unreadable.digest
    assert unreadable.error.startswith(reason)
    assert "\n" not in unreadable.error


def test_the_readable_part_of_a_truncated_file_is_used():
    """libsndfile reads the complete frames of an interrupted download."""
    raw = encode(tone(), format="WAV")
    assert np.allclose(decode(raw[: len(raw) // 2])[:3_000], tone()[:3_000], atol=1e-4)


def test_silence_at_both_ends_is_removed():
    """Noise that is quieter than the loudest frame by more than `trim` is removed."""
    quiet = 0.0005 * np.random.default_rng(0).normal(size=4_000).astype(np.float32)
    raw = encode(np.concatenate([quiet, tone(level=0.003), tone(), quiet]), subtype="FLOAT")
    assert len(decode(raw, trim=25.0)) == pytest.approx(8_000, abs=320)
    assert len(decode(raw, trim=42.0)) == pytest.approx(16_000, abs=320)
    assert len(decode(raw)) == 24_000


def test_loudness_is_normalized():
    """The root mean square is 0.1 unless peaks would exceed 1; silence is not amplified."""

    def decode_normalized(samples):
        return modality(trim=0.0).decode(tf.constant(encode(samples, subtype="FLOAT"))).numpy()

    for level in (0.001, 0.5):
        assert np.sqrt(np.square(decode_normalized(tone(level=level))).mean()) == pytest.approx(0.1, rel=0.01)
    click = np.zeros(16_000, np.float32)
    click[8_000] = 0.5
    assert np.abs(decode_normalized(click)).max() == pytest.approx(1.0, abs=1e-6)
    assert np.abs(decode_normalized(1e-6 * np.ones(1_000, np.float32))).max() < 2e-6


def test_the_model_input_is_the_middle():
    """A short recording is padded on both sides, a long one is cropped on both sides."""
    prepare = modality(PretrainedCfg(size=6, sample_rate=16_000)).prepare
    assert prepare(tf.constant([1.0, 2, 3])).numpy().tolist() == [0, 1, 2, 3, 0, 0]
    assert prepare(tf.range(1.0, 11.0)).numpy().tolist() == [3, 4, 5, 6, 7, 8]
    assert prepare(tf.zeros(0)).numpy().tolist() == [0] * 6


def test_decoded_waveforms_are_accepted():
    """Floats are kept, integers are 16-bit samples."""
    audio = modality()
    assert audio.decode(tf.constant([0.5, -0.5])).numpy().tolist() == [0.5, -0.5]
    assert audio.decode(tf.constant([16_384, -32_768], tf.int64)).numpy().tolist() == [0.5, -1.0]


def test_empty_value_and_preview():
    """The empty value is silence, and the preview has a spectrogram and a WAV file."""
    audio = modality()
    assert not audio.portable
    assert not np.any(audio.empty_value())
    assert audio.prepare(audio.empty_value()).shape == (16_000,)
    preview = audio.preview(b"", audio.prepare(tf.constant(tone())).numpy())
    height, width, _ = tf.io.decode_png(preview.image).shape
    assert height > width > 90
    with wave.open(io.BytesIO(preview.audio)) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, 16_000)


@pytest.mark.parametrize("options", [{"max_seconds": 0.0}, {"trim": -1.0}])
def test_options_out_of_range_are_rejected(options):
    """The error is raised before a recording is read."""
    with pytest.raises(UserError, match=r"^Options of audio\(\) are out of range: "):
        modality(**options)


def test_real_recordings():
    """A spoken digit of telephone quality is decoded from WAV and from GSM."""
    for path in (fetch_asset("digits-menardi") / "digits/3.wav", fetch_asset("digits-july") / "digits/3.gsm"):
        samples = modality().decode(tf.io.read_file(str(path))).numpy()
        assert 0.2 < len(samples) / 16_000 < 0.8
        assert np.sqrt(np.square(samples).mean()) == pytest.approx(0.1, rel=0.01)
