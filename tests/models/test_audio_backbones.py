"""Towers for audio: front ends against independent ones, pretrained weights against their own files and on speech."""

import functools

import keras
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.helpers.assets import asset
from tests.helpers.hub_presets import whisper_preset
from tests.helpers.small_bundle import tower_bundle
from tests.helpers.towers import batch
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones import log_mel
from tfx_finetune.training import engine
from tfx_finetune.types.components import BACKBONES, MODALITIES, SOURCES, PretrainedCfg

WAVE = np.random.default_rng(0).normal(size=4_000).astype(np.float32) * 0.1


def power(mel, wave=WAVE):
    inputs = log_mel.make_waveform_input(len(wave))
    return keras.Model(inputs, log_mel.compute_mel_power(inputs, mel)).predict(wave[None], verbose=0)[0]


def test_the_transform_is_that_of_scipy():
    """Power of each bin of a windowed Fourier transform; the window in the middle of a longer transform."""
    mel = log_mel.MelConfig(window_length=400, hop_length=160, fft_length=512)
    _, _, other = scipy.signal.stft(
        WAVE[56:], 1.0, ("hann"), 400, 240, 512, return_onesided=True, boundary=None, padded=False
    )
    expected = np.square(np.abs(other * scipy.signal.get_window("hann", 400).sum())).T
    found = power(mel)
    assert found.shape == (mel.count_frames(len(WAVE)), mel.mels)
    expected = expected[: len(found)] @ log_mel.make_mel_filters(mel)
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


def test_htk_filters_are_those_of_tensorflow():
    """TensorFlow's have triangles on the mel scale and a height of 1; here they are of one area, as librosa's."""
    mel = log_mel.MelConfig(mels=20, f_min=100.0, f_max=7_000.0)
    other = tf.signal.linear_to_mel_weight_matrix(20, 257, 16_000, 100.0, 7_000.0).numpy()
    found = log_mel.make_mel_filters(mel)
    assert ((found > 0) == (other > 0)).mean() > 0.999
    assert np.abs(found.argmax(0) - other.argmax(0)).max() <= 1
    area = found[:, -5:].sum(0) * 16_000 / 512
    assert np.allclose(area, 1, atol=0.03)


def test_slaney_filters_are_those_of_whisper():
    """keras-hub computes them for itself, up to the rounding of its own constants."""
    hub = pytest.importorskip("keras_hub")
    other = hub.layers.WhisperAudioConverter(num_mels=80)._get_mel_filters()
    found = log_mel.make_mel_filters(log_mel.MelConfig(16_000, 80, 0.0, 8_000.0, 400, 160, 400, "slaney"))
    assert np.abs(found - np.array(other).reshape(found.shape)).max() < 1e-6


def test_a_tone_is_in_its_band():
    """1 kHz at level 1 is the loudest band's, and a step of 20 dB is a quarter of the scale of 80."""
    mel = log_mel.make_mel_config(16_000, 64)
    inputs = log_mel.make_waveform_input(16_000)
    model = keras.Model(inputs, log_mel.normalize_loudness(log_mel.compute_mel_power(inputs, mel)))
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 1_000 * time) * np.where(time < 0.5, 1, 0.1)
    picture = model.predict(tone[None].astype(np.float32), verbose=0)[0]
    band = log_mel.make_mel_filters(mel)[32].argmax()
    assert picture[10].argmax() == band
    assert picture[10, band] == pytest.approx(1.0, abs=1e-3)
    assert picture[80, band] == pytest.approx(0.75, abs=1e-3)
    assert not model.predict(np.zeros((1, 16_000), np.float32), verbose=0).any()


@pytest.mark.parametrize("rate", [4_000, 8_000, 16_000, 44_100, 192_000])
def test_every_band_has_a_bin(rate):
    """Whatever the rate and however many bands; an empty band would be a black line in every picture."""
    for mels in (8, 128, 256):
        mel = log_mel.make_mel_config(rate, mels)
        assert log_mel.make_mel_filters(mel).any(axis=0).all()
        assert mel.window_length / rate == pytest.approx(0.025, rel=0.02)


@pytest.mark.parametrize(("time", "parts"), [(16, 2), (17, 2), (5, 3), (4, 4), (7, 1)])
def test_parts_of_the_time(time, parts):
    """So many averages, of the whole of the time."""
    tokens = keras.Input((time, 3))
    model = keras.Model(tokens, log_mel.average_segments(tokens, parts))
    steps = np.arange(time, dtype=np.float32)[None, :, None].repeat(3, 2)
    found = model.predict(steps, verbose=0)[0].reshape(parts, 3)[:, 0]
    assert found.mean() == pytest.approx((time - 1) / 2)
    if time % parts == 0:
        assert found.tolist() == [part.mean() for part in np.array_split(np.arange(time), parts)]


SMALL = {
    "audio_net": "audio_net(seconds=1.0, widths=(8, 16))",
    "spectrogram": "spectrogram(tower=convnet(size=32, channels=3), seconds=1.0)",
    "speech_embedding": "speech_embedding(seconds=1.0, weights='none')",
    "whisper": "whisper(seconds=1.0)",
    "audio_bundle": "audio_bundle()",
}


def test_every_audio_backbone_has_an_example():
    """So that each is converted below."""
    assert set(SMALL) == {name for name in BACKBONES if BACKBONES.get_modality(name) == "audio"}


@pytest.mark.parametrize("name", SMALL)
def test_a_waveform_goes_into_a_tflite_file(name, tmp_path):
    """Builtin operators alone, from the waveform on; and a Keras file loads without custom objects."""
    spec = parse_spec(SMALL[name])
    if name == "whisper":
        spec = Spec(name, (), {**spec.kwargs, "preset": whisper_preset(tmp_path)})
    if name == "audio_bundle":
        spec = Spec(name, (), {"path": str(tower_bundle(tmp_path / "bundle", SMALL["audio_net"]).path)})
    backbone = BACKBONES.build(spec)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    waves = batch(backbone)
    expected = model.predict(waves, verbose=0)
    found = engine._make_litert_fn(model)(waves)[0]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict(waves, verbose=0), expected)


@functools.cache
def speech():
    asset("speech-embedding")
    backbone = BACKBONES.build(Spec("speech_embedding"))
    return backbone, keras.Model(backbone.inputs, [backbone.features.tokens, backbone.features.pooled])


@functools.cache
def digits(voice, language):
    """Prepared waveforms (10, 32000) of the digits."""
    asset(f"digits-{voice}")
    audio = MODALITIES.build(Spec("audio"), PretrainedCfg(size=32_000, sample_rate=16_000))
    source = SOURCES.build(Spec("spoken_digits", (), {"languages": (language,)}))
    samples = [sample for sample in source.read("all").as_numpy_iterator() if sample["group"] == voice.encode()]
    return np.stack([audio.prepare(audio.decode(tf.io.read_file(sample["audio"]))) for sample in samples])


def test_speech_embedding_is_its_tflite_files():
    """The package's own two files, run one after the other as its authors do, on a recorded digit."""
    folder = asset("speech-embedding")
    _, model = speech()
    wave = digits("menardi", "it")[3]
    mels = Interpreter(str(folder / "melspectrogram.tflite"))
    mels.resize_tensor_input(mels.get_input_details()[0]["index"], [1, len(wave)])
    picture = run(mels, wave[None] * 32_768)[0, 0] / 10 + 2
    embedding = Interpreter(str(folder / "embedding_model.tflite"))
    windows = [picture[start : start + 76] for start in range(0, len(picture) - 75, 8)]
    expected = np.stack([run(embedding, window[None, ..., None])[0, 0, 0] for window in windows])
    found = model.predict(wave[None], verbose=0)[0][0]
    assert found.shape == expected.shape == (16, 96)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def run(interpreter, value):
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value.astype(np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def neighbours(model, known, asked):
    """How many of ten digits of one voice have the same digit of another one as their nearest neighbour."""
    pooled = [model.predict(waves, verbose=0)[1] for waves in (known, asked)]
    one, other = ((each - pooled[0].mean(0)) for each in pooled)
    cosine = (other / np.linalg.norm(other, axis=1, keepdims=True)) @ (
        one / np.linalg.norm(one, axis=1, keepdims=True)
    ).T
    return int((cosine.argmax(axis=1) == np.arange(10)).sum())


def test_speech_embedding_is_fed_right():
    """One example a digit of a woman finds those of a man, and the other way round; at half the rate, or with random
    weights, it does not.
    """
    _, model = speech()
    woman, man = digits("menardi", "it"), digits("carlo", "it")
    right = neighbours(model, woman, man) + neighbours(model, man, woman)
    assert right >= 18
    slow = [np.repeat(waves[:, 8_000:24_000], 2, axis=1) for waves in (woman, man)]
    wrong = neighbours(model, *slow) + neighbours(model, *slow[::-1])
    keras.utils.set_random_seed(0)
    fresh = BACKBONES.build(parse_spec("speech_embedding(weights='none')"))
    random = keras.Model(fresh.inputs, [fresh.features.tokens, fresh.features.pooled])
    without = neighbours(random, woman, man) + neighbours(random, man, woman)
    assert max(wrong, without) <= right - 4


def test_whisper_sees_what_its_own_converter_makes(tmp_path):
    """keras-hub's WhisperAudioConverter and encoder on 30 seconds; a shorter input has the same beginning."""
    hub = pytest.importorskip("keras_hub")
    preset = whisper_preset(tmp_path)
    backbone = BACKBONES.build(Spec("whisper", (), {"preset": preset}))
    wave = np.zeros(480_000, np.float32)
    wave[:32_000] = batch(BACKBONES.build(parse_spec("audio_net()")), 1)[0]
    pictured = hub.layers.WhisperAudioConverter(num_mels=80)(wave)
    whole = hub.models.WhisperBackbone.from_preset(preset)
    encoder = keras.Model(whole.input["encoder_features"], whole.output["encoder_sequence_output"])
    expected = encoder.predict(np.array(pictured)[None], verbose=0)
    found = keras.Model(backbone.inputs, backbone.features.tokens).predict(wave[None], verbose=0)
    assert found.shape == expected.shape == (1, 1_500, 16)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_whisper_that_cannot_be_had(tmp_path):
    """A folder that is none, in one line."""
    pytest.importorskip("keras_hub")
    with pytest.raises(
        UserError, match=r"keras-hub cannot load this preset as WhisperBackbone; received: .*nothing"
    ) as error:
        BACKBONES.build(Spec("whisper", (), {"preset": str(tmp_path / "nothing")}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("speech_embedding(seconds=0.5)", "the input of speech_embedding is too short"),
        ("speech_embedding(segments=99, weights='none')", "the time cannot be divided into so many parts"),
        ("speech_embedding(weights='speach')", "no such file of weights"),
        ("audio_net(seconds=0.02)", "audio_net cannot be of this form"),
        ("audio_net(sample_rate=100)", "not the settings of a spectrogram"),
        ("audio_net(widths=())", "audio_net cannot be of this form"),
        ("spectrogram(tower=speech_embedding())", "spectrogram wants a tower that takes pictures"),
        ("spectrogram(seconds=0.01)", "the input of spectrogram is too short"),
        ("whisper(seconds=31.0)", "the input of whisper is out of range"),
    ],
)
def test_options_are_checked(spec, what):
    """Before weights are fetched."""
    with pytest.raises(UserError, match=what):
        BACKBONES.build(parse_spec(spec))
