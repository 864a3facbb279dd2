"""Effects of the augments of recordings."""

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.types.components import AUGMENTS

WAVE = (0.2 * np.sin(np.arange(8_001) * 0.3) + 0.02 * np.random.default_rng(0).normal(size=8_001)).astype(np.float32)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Write a folder with two recordings of noise."""
    folder = tmp_path_factory.mktemp("street")
    for number in range(2):
        soundfile.write(folder / f"{number}.flac", np.random.default_rng(number).normal(size=5_000) * 0.1, 8_000)
    return folder


def make_seed(seed):
    return tf.constant([seed, 7], tf.int64)


def apply(spec, seed, wave=WAVE):
    return AUGMENTS.build(parse_spec(spec))({"audio": tf.constant(wave)}, make_seed(seed))["audio"].numpy()


def test_gain():
    """The gain is within the stated decibels, and peaks are clipped to 1."""
    ratios = [20 * np.log10(np.std(apply("gain(decibels=6.0)", seed)) / np.std(WAVE)) for seed in range(40)]
    assert -6.01 <= min(ratios) < -3
    assert 3 < max(ratios) <= 6.01
    assert max(np.abs(apply("gain(decibels=40.0)", seed)).max() for seed in range(10)) == 1


def test_shift_moves_the_middle():
    """Silence of twice the shift is added on one side, and no sample is lost."""
    for seed in range(20):
        shifted = apply("shift(max_shift=0.2)", seed)
        start = len(shifted) - len(WAVE) if not shifted[0] else 0
        assert np.array_equal(shifted[start : start + len(WAVE)], WAVE)
        assert len(shifted) - len(WAVE) <= 0.4 * len(WAVE)


def test_speed_changes_length_and_pitch():
    """A tone of 100 periods still has 100 periods, in more or less time."""
    tone = np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000).astype(np.float32)
    lengths = []
    for seed in range(20):
        changed = apply("speed(max_factor=1.25)", seed, tone)
        lengths.append(len(changed) / 16_000)
        crossings = (np.diff(np.sign(changed)) > 0).sum()
        assert abs(crossings - 100) <= 1
    assert 0.79 < min(lengths) < 0.9
    assert 1.1 < max(lengths) < 1.26
    assert np.allclose(apply("speed(max_factor=1.0)", 0, tone), tone)


def test_noise_has_the_stated_level():
    """The signal-to-noise ratio is the stated one."""
    for seed in range(5):
        added = apply("noise(snr=(20.0, 20.0))", seed) - WAVE
        assert 10 * np.log10(np.mean(WAVE**2) / np.mean(added**2)) == pytest.approx(20, abs=0.3)


def test_spec_augment_masks_time_and_frequency():
    """A time mask gives an interval of zeros, a frequency mask a band without power."""
    fractions = [
        np.mean(apply("spec_augment(time_masks=1, max_time=0.3, freq_masks=0)", seed) == 0) for seed in range(20)
    ]
    assert 0.15 < max(fractions) <= 0.301
    noise = np.random.default_rng(1).normal(size=16_000).astype(np.float32)
    fractions = []
    for seed in range(20):
        spectrum = np.abs(np.fft.rfft(apply("spec_augment(time_masks=0, freq_masks=1, max_freq=0.3)", seed, noise)))
        masked = np.flatnonzero(spectrum < 1e-2)
        fractions.append(len(masked) / len(spectrum))
        assert len(masked) == 0 or masked[-1] - masked[0] + 1 == len(masked)
    assert max(fractions) > 0.1


def test_background_noise_has_the_stated_level_and_probability(street):
    """A resampled part of a recording in the folder is added, with the stated level and probability."""
    spec = f"background_noise(path={str(street)!r}, snr=(10.0, 10.0), probability=0.5)"
    differences = [apply(spec, seed, 0.1 * WAVE) - 0.1 * WAVE for seed in range(40)]
    backgrounds = [difference for difference in differences if np.abs(difference).max() > 0]
    assert 10 <= len(backgrounds) <= 30
    for background in backgrounds:
        assert 10 * np.log10(np.mean((0.1 * WAVE) ** 2) / np.mean(background**2)) == pytest.approx(10, abs=0.1)
        # Noise with a sample rate of 8 kHz has no power above 4 kHz.
        spectrum = np.abs(np.fft.rfft(background * np.hanning(len(background))))
        assert spectrum[int(0.6 * len(spectrum)) :].max() < 0.02 * spectrum.max()


def test_folders_without_recordings_are_rejected(tmp_path):
    """An empty folder, and a file that is not audio, are errors."""
    with pytest.raises(UserError, match=r"The folder of background_noise\(\) has no recordings: "):
        AUGMENTS.build(Spec("background_noise", (str(tmp_path),)))
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"A recording of background_noise\(\) is not readable: .*a\.wav"):
        apply(f"background_noise(path={str(tmp_path)!r})", 0)


@pytest.mark.parametrize(
    "spec",
    [
        *("gain(decibels=-1.0)", "shift(max_shift=2.0)", "speed(max_factor=0.5)", "noise(snr=(9.0, 1.0))"),
        *("spec_augment(max_time=2.0)", "background_noise(path='.', probability=2.0)"),
    ],
)
def test_options_out_of_range_are_rejected(spec):
    """A fraction of 2 is an error."""
    with pytest.raises(UserError, match=r"^Options of \w+\(\) are out of range: .*\. Expected: "):
        AUGMENTS.build(parse_spec(spec))
