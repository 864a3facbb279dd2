"""Recordings: every format, rate and number of channels, and what is said about those that cannot be used."""

import io
import struct
import wave

import numpy as np
import pytest
import scipy.signal
import soundfile
import tensorflow as tf

from tests.helpers.assets import asset
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.validation import check_contents, make_decoder
from tfx_finetune.ops import audio as sound
from tfx_finetune.types.components import MODALITIES, PretrainedCfg

CARD = PretrainedCfg(size=16_000, sample_rate=16_000)


def tone(rate=16_000, seconds=0.5, hertz=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(samples, rate=16_000, **how):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **({"format": "WAV"} | how))
    return stream.getvalue()


def modality(card=CARD, **options):
    return MODALITIES.build(Spec("audio", (), options), card)


def plain(raw, card=CARD, **options):
    return modality(card, **{"loudness": "none", "trim": 0.0, **options}).decode(tf.constant(raw)).numpy()


@pytest.mark.parametrize(
    ("how", "most"),
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
def test_formats(how, most):
    """What was written comes back; lossy formats come near, and may add silence at the ends."""
    samples = tone()
    decoded = plain(encoded(samples, **how))
    if len(decoded) == len(samples):
        assert np.abs(decoded - samples).max() <= most
    else:
        lags = scipy.signal.correlate(decoded, samples, "valid") if len(decoded) > len(samples) else [0]
        start = int(np.argmax(lags))
        assert np.abs(decoded[start : start + len(samples)] - samples).max() <= most


def test_channels_are_averaged():
    """Two, or six."""
    left, right = tone(hertz=300), tone(hertz=500)
    assert np.allclose(plain(encoded(np.stack([left, right], 1), subtype="FLOAT")), (left + right) / 2, atol=1e-7)
    six = np.stack([left] * 5 + [right], 1)
    assert np.allclose(plain(encoded(six, subtype="FLOAT")), (5 * left + right) / 6, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_agrees_with_scipy(rate):
    """soxr against scipy's polyphase filters, below both of their edges and away from the ends."""
    samples = sum(tone(rate, hertz=hertz, level=0.1) for hertz in (200, 1_000, 3_000))
    decoded = plain(encoded(samples, rate, subtype="FLOAT"))
    divisor = np.gcd(rate, 16_000)
    other = scipy.signal.resample_poly(samples, 16_000 // divisor, rate // divisor)
    assert abs(len(decoded) - len(other)) <= 1
    assert np.abs(decoded[800:7_000] - other[800:7_000]).max() < 2e-3


def test_sounds_above_half_of_the_rate_are_taken_out():
    """They would come back as others: 11 kHz at 16,000 samples a second as 5 kHz."""
    assert np.abs(plain(encoded(tone(48_000, hertz=11_000), 48_000, subtype="FLOAT"))[800:7_000]).max() < 1e-3


def test_gsm_without_a_header():
    """As telephone systems keep it: 33 bytes for 160 samples."""
    stream = io.BytesIO()
    soundfile.write(stream, tone(8_000), 8_000, format="RAW", subtype="GSM610")
    raw = stream.getvalue()
    assert len(raw) % 33 == 0
    decoded = plain(raw, PretrainedCfg(size=4_000, sample_rate=8_000))
    assert np.corrcoef(decoded[400:3_600], tone(8_000)[400:3_600])[0, 1] > 0.95


def test_an_hour_is_cut_while_it_is_read(monkeypatch):
    """Of a long file only the beginning is decompressed."""
    raw = encoded(np.tile(tone(1_000, 1, 100), 3_600), 1_000, format="FLAC")
    read, counts = soundfile.SoundFile.read, []

    def counting(self, frames, *args, **kwargs):
        counts.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert len(sound.decode_audio(raw, 1_000, 25.0)) == 25_000
    assert counts == [10_000, 10_000, 5_000]


def header(rate):
    """A WAV file whose header says another rate."""
    raw = bytearray(encoded(tone()))
    raw[24:28] = struct.pack("<I", rate)
    return bytes(raw)


BAD = {
    "empty file": b"",
    "not a recording that can be read": b"\x89PNG not a sound at all",
    "a recording without samples": encoded(np.zeros(0, np.float32)),
    "a recording with samples that are not numbers": encoded(np.array([0, np.nan, 0.1], np.float32), subtype="FLOAT"),
    "a header that says 3 samples a second": header(3),
    "a header that says 2000000000 samples a second": header(2_000_000_000),
}


@pytest.mark.parametrize("why", BAD)
def test_bad_recordings_are_listed_with_a_reason(why):
    """As the survey reads them: one line each, and the good one beside them is used."""
    audio = modality()
    good, bad = check_contents([encoded(tone()), BAD[why]], False, make_decoder(audio.decode), audio.reason)
    assert good[0]
    assert not good[1]
    assert not bad[0]
    assert bad[1].startswith(why)
    assert "\n" not in bad[1]


def test_a_truncated_file_is_what_can_be_read_of_it():
    """A download that broke off; libsndfile takes the whole frames."""
    raw = encoded(tone(), format="WAV")
    assert np.allclose(plain(raw[: len(raw) // 2])[:3_000], tone()[:3_000], atol=1e-4)


def test_silence_at_both_ends_is_cut():
    """Noise far below the speech goes, what is within 40 decibels stays."""
    quiet = 0.0005 * np.random.default_rng(0).normal(size=4_000).astype(np.float32)
    raw = encoded(np.concatenate([quiet, tone(level=0.003), tone(), quiet]), subtype="FLOAT")
    assert len(plain(raw, trim=25.0)) == pytest.approx(8_000, abs=320)
    assert len(plain(raw, trim=42.0)) == pytest.approx(16_000, abs=320)
    assert len(plain(raw)) == 24_000


def test_loudness():
    """Root mean square 0.1, unless peaks would pass 1; silence is not made louder."""

    def levelled(samples):
        return modality(trim=0.0).decode(tf.constant(encoded(samples, subtype="FLOAT"))).numpy()

    for level in (0.001, 0.5):
        assert np.sqrt(np.square(levelled(tone(level=level))).mean()) == pytest.approx(0.1, rel=0.01)
    click = np.zeros(16_000, np.float32)
    click[8_000] = 0.5
    assert np.abs(levelled(click)).max() == pytest.approx(1.0, abs=1e-6)
    assert np.abs(levelled(1e-6 * np.ones(1_000, np.float32))).max() < 2e-6


def test_preparing_keeps_the_middle():
    """A short recording gets silence on both sides, a long one loses both ends."""
    prepare = modality(PretrainedCfg(size=6, sample_rate=16_000)).prepare
    assert prepare(tf.constant([1.0, 2, 3])).numpy().tolist() == [0, 1, 2, 3, 0, 0]
    assert prepare(tf.range(1.0, 11.0)).numpy().tolist() == [3, 4, 5, 6, 7, 8]
    assert prepare(tf.zeros(0)).numpy().tolist() == [0] * 6


def test_waveforms_that_came_decoded():
    """Floats as they are, whole numbers as those of 16 bits."""
    decode = modality().decode
    assert decode(tf.constant([0.5, -0.5])).numpy().tolist() == [0.5, -0.5]
    assert decode(tf.constant([16_384, -32_768], tf.int64)).numpy().tolist() == [0.5, -1.0]


def test_the_contract():
    """What a tower without a recording sees, and what a person does."""
    audio = modality()
    assert not audio.portable
    assert not np.any(audio.blank())
    assert audio.prepare(audio.blank()).shape == (16_000,)
    shown = audio.show(b"", audio.prepare(tf.constant(tone())).numpy())
    height, width, _ = tf.io.decode_png(shown.picture).shape
    assert height > width > 90
    with wave.open(io.BytesIO(shown.sound)) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, 16_000)


@pytest.mark.parametrize("options", [{"max_seconds": 0.0}, {"trim": -1.0}])
def test_options_are_checked(options):
    """Before any recording is read."""
    with pytest.raises(UserError, match="audio is out of range"):
        modality(**options)


def test_real_prompts():
    """A digit from the telephone, recorded as WAV and as GSM."""
    for place in (asset("digits-menardi") / "digits/3.wav", asset("digits-july") / "digits/3.gsm"):
        samples = modality().decode(tf.io.read_file(str(place))).numpy()
        assert 0.2 < len(samples) / 16_000 < 0.8
        assert np.sqrt(np.square(samples).mean()) == pytest.approx(0.1, rel=0.01)
