"""Audio backbones: spectrograms against SciPy, TensorFlow and keras-hub, and pretrained weights on speech."""

import functools

import keras
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.helpers.assets import fetch_asset
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


def test_power_spectrum_equals_scipy():
    """The power of each bin is that of a Hann window in the middle of a longer Fourier transform."""
    mel = log_mel.MelConfig(window_length=400, hop_length=160, fft_length=512)
    _, _, stft = scipy.signal.stft(
        WAVE[56:], 1.0, ("hann"), 400, 240, 512, return_onesided=True, boundary=None, padded=False
    )
    expected = np.square(np.abs(stft * scipy.signal.get_window("hann", 400).sum())).T
    spectrum = power(mel)
    assert spectrum.shape == (mel.count_frames(len(WAVE)), mel.mels)
    expected = expected[: len(spectrum)] @ log_mel.make_mel_filters(mel)
    assert np.abs(spectrum - expected).max() < 1e-4 * expected.max()


def test_htk_filters_match_tensorflow():
    """TensorFlow's filters are triangles on the mel scale with height 1; these have equal area, like librosa's."""
    mel = log_mel.MelConfig(mels=20, f_min=100.0, f_max=7_000.0)
    reference = tf.signal.linear_to_mel_weight_matrix(20, 257, 16_000, 100.0, 7_000.0).numpy()
    filters = log_mel.make_mel_filters(mel)
    assert ((filters > 0) == (reference > 0)).mean() > 0.999
    assert np.abs(filters.argmax(0) - reference.argmax(0)).max() <= 1
    area = filters[:, -5:].sum(0) * 16_000 / 512
    assert np.allclose(area, 1, atol=0.03)


def test_slaney_filters_equal_keras_hub():
    """The filters of Whisper in keras-hub differ only by rounding."""
    hub = pytest.importorskip("keras_hub")
    reference = hub.layers.WhisperAudioConverter(num_mels=80)._get_mel_filters()
    filters = log_mel.make_mel_filters(log_mel.MelConfig(16_000, 80, 0.0, 8_000.0, 400, 160, 400, "slaney"))
    assert np.abs(filters - np.array(reference).reshape(filters.shape)).max() < 1e-6


def test_a_tone_is_in_its_band():
    """A tone of 1 kHz has its maximum in one band, and 20 dB are a quarter of the range of 80 dB."""
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
    """Every filter contains a frequency bin, at all sample rates and numbers of bands."""
    for mels in (8, 128, 256):
        mel = log_mel.make_mel_config(rate, mels)
        assert log_mel.make_mel_filters(mel).any(axis=0).all()
        assert mel.window_length / rate == pytest.approx(0.025, rel=0.02)


@pytest.mark.parametrize(("time", "segments"), [(16, 2), (17, 2), (5, 3), (4, 4), (7, 1)])
def test_segments_cover_the_time(time, segments):
    """The averages of the segments have the mean of all time steps."""
    tokens = keras.Input((time, 3))
    model = keras.Model(tokens, log_mel.average_segments(tokens, segments))
    steps = np.arange(time, dtype=np.float32)[None, :, None].repeat(3, 2)
    averages = model.predict(steps, verbose=0)[0].reshape(segments, 3)[:, 0]
    assert averages.mean() == pytest.approx((time - 1) / 2)
    if time % segments == 0:
        assert averages.tolist() == [part.mean() for part in np.array_split(np.arange(time), segments)]


SMALL = {
    "audio_net": "audio_net(seconds=1.0, widths=(8, 16))",
    "spectrogram": "spectrogram(tower=convnet(size=32, channels=3), seconds=1.0)",
    "speech_embedding": "speech_embedding(seconds=1.0, weights='none')",
    "whisper": "whisper(seconds=1.0)",
    "audio_bundle": "audio_bundle()",
}


def test_every_audio_backbone_has_an_example():
    """Every audio backbone is converted to TFLite in the next test."""
    assert set(SMALL) == {name for name in BACKBONES if BACKBONES.get_modality(name) == "audio"}


@pytest.mark.parametrize("name", SMALL)
def test_tflite_takes_the_waveform(name, tmp_path):
    """TFLite needs builtin operators only, and the Keras file loads without custom objects."""
    spec = parse_spec(SMALL[name])
    if name == "whisper":
        spec = Spec(name, (), {**spec.kwargs, "preset": whisper_preset(tmp_path)})
    if name == "audio_bundle":
        spec = Spec(name, (), {"path": str(tower_bundle(tmp_path / "bundle", SMALL["audio_net"]).path)})
    backbone = BACKBONES.build(spec)
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    waves = batch(backbone)
    expected = model.predict(waves, verbose=0)
    converted = engine._make_litert_fn(model)(waves)[0]
    assert np.abs(converted - expected).max() <= 1e-3 * np.abs(expected).max()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(waves, verbose=0), expected)


@functools.cache
def speech():
    fetch_asset("speech-embedding")
    backbone = BACKBONES.build(Spec("speech_embedding"))
    return backbone, keras.Model(backbone.inputs, [backbone.features.tokens, backbone.features.pooled])


@functools.cache
def digits(voice, language):
    """Return prepared waveforms (10, 32000) of the digits."""
    fetch_asset(f"digits-{voice}")
    audio = MODALITIES.build(Spec("audio"), PretrainedCfg(size=32_000, sample_rate=16_000))
    source = SOURCES.build(Spec("spoken_digits", (), {"languages": (language,)}))
    samples = [sample for sample in source.read("all").as_numpy_iterator() if sample["group"] == voice.encode()]
    return np.stack([audio.prepare(audio.decode(tf.io.read_file(sample["audio"]))) for sample in samples])


def test_speech_embedding_equals_its_tflite_files():
    """The two files of the package, run in sequence, give the same embeddings of a recorded digit."""
    folder = fetch_asset("speech-embedding")
    _, model = speech()
    wave = digits("menardi", "it")[3]
    mels = Interpreter(str(folder / "melspectrogram.tflite"))
    mels.resize_tensor_input(mels.get_input_details()[0]["index"], [1, len(wave)])
    picture = run(mels, wave[None] * 32_768)[0, 0] / 10 + 2
    embedding = Interpreter(str(folder / "embedding_model.tflite"))
    windows = [picture[start : start + 76] for start in range(0, len(picture) - 75, 8)]
    expected = np.stack([run(embedding, window[None, ..., None])[0, 0, 0] for window in windows])
    embeddings = model.predict(wave[None], verbose=0)[0][0]
    assert embeddings.shape == expected.shape == (16, 96)
    assert np.abs(embeddings - expected).max() <= 1e-4 * np.abs(expected).max()


def run(interpreter, value):
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value.astype(np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def count_correct_neighbors(model, references, queries):
    """Count the digits of one voice whose nearest neighbor in another voice is the same digit."""
    pooled = [model.predict(waves, verbose=0)[1] for waves in (references, queries)]
    centered = [features - pooled[0].mean(0) for features in pooled]
    keys, values = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in centered)
    cosine = values @ keys.T
    return int((cosine.argmax(axis=1) == np.arange(10)).sum())


def test_speech_embedding_separates_digits():
    """Digits of two voices match by their nearest neighbor, but not at half the sample rate or with random weights."""
    _, model = speech()
    woman, man = digits("menardi", "it"), digits("carlo", "it")
    num_correct = count_correct_neighbors(model, woman, man) + count_correct_neighbors(model, man, woman)
    assert num_correct >= 18
    slow = [np.repeat(waves[:, 8_000:24_000], 2, axis=1) for waves in (woman, man)]
    num_correct_slow = count_correct_neighbors(model, *slow) + count_correct_neighbors(model, *slow[::-1])
    keras.utils.set_random_seed(0)
    untrained = BACKBONES.build(parse_spec("speech_embedding(weights='none')"))
    random_model = keras.Model(untrained.inputs, [untrained.features.tokens, untrained.features.pooled])
    num_correct_random = count_correct_neighbors(random_model, woman, man)
    num_correct_random += count_correct_neighbors(random_model, man, woman)
    assert max(num_correct_slow, num_correct_random) <= num_correct - 4


def test_whisper_equals_keras_hub(tmp_path):
    """Features are those of keras-hub's WhisperAudioConverter and encoder."""
    hub = pytest.importorskip("keras_hub")
    preset = whisper_preset(tmp_path)
    backbone = BACKBONES.build(Spec("whisper", (), {"preset": preset}))
    wave = np.zeros(480_000, np.float32)
    wave[:32_000] = batch(BACKBONES.build(parse_spec("audio_net()")), 1)[0]
    mels = hub.layers.WhisperAudioConverter(num_mels=80)(wave)
    network = hub.models.WhisperBackbone.from_preset(preset)
    encoder = keras.Model(network.input["encoder_features"], network.output["encoder_sequence_output"])
    expected = encoder.predict(np.array(mels)[None], verbose=0)
    tokens = keras.Model(backbone.inputs, backbone.features.tokens).predict(wave[None], verbose=0)
    assert tokens.shape == expected.shape == (1, 1_500, 16)
    assert np.abs(tokens - expected).max() <= 1e-3 * np.abs(expected).max()


def test_a_missing_whisper_preset_is_refused(tmp_path):
    """The error is one line."""
    pytest.importorskip("keras_hub")
    with pytest.raises(UserError, match=r"keras-hub cannot load the preset as WhisperBackbone: .*nothing") as error:
        BACKBONES.build(Spec("whisper", (), {"preset": str(tmp_path / "nothing")}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "speech_embedding(seconds=0.5)",
            r"The input of speech_embedding\(\) is too short: 0\.5\. Expected: at least 0\.8 seconds\.",
        ),
        (
            "speech_embedding(segments=99, weights='none')",
            r"The number of segments is out of range: 99\. Expected: 1 to \d+\.",
        ),
        (
            "speech_embedding(weights='speach')",
            r"The weights file does not exist: speach\. Expected: speech, none or a path\.",
        ),
        (
            "audio_net(seconds=0.02)",
            r"Options of audio_net\(\) are out of range: seconds=0\.02 \(0 frames\), mels=64, ",
        ),
        ("audio_net(sample_rate=100)", "Settings of the spectrogram are out of range: sample_rate=100, mels=64"),
        ("audio_net(widths=())", r"Options of audio_net\(\) are out of range: seconds=2\.0 \(197 frames\), mels=64, "),
        (
            "spectrogram(tower=speech_embedding())",
            r"The tower of spectrogram\(\) is not an image backbone: speech_embedding \(audio\)\.",
        ),
        (
            "spectrogram(seconds=0.01)",
            r"The input of spectrogram\(\) is too short: 0\.01 seconds\. Expected: at least 0\.032 seconds\.",
        ),
        ("whisper(seconds=31.0)", r"Option seconds of whisper\(\) is out of range: 31\.0\. Expected: 0\.1 to 30\."),
    ],
)
def test_invalid_options_are_refused(spec, message):
    """The error is raised before weights are fetched."""
    with pytest.raises(UserError, match=message):
        BACKBONES.build(parse_spec(spec))
