"""Tests of partitions: layers above unsupported layers are compressed, all other layers stay unchanged."""

import csv
import json
import wave
from collections import Counter

import keras
import numpy as np
import pytest

from tests.helpers.commands import get_error, run_in_process
from tests.helpers.small_data import picture
from tests.helpers.towers import batch
from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.partition import partition_model
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.verify import select_compressed_kernels
from tfx_finetune.types.components import BACKBONES

AUDIO = "audio_net(seconds=0.3, sample_rate=8000, mels=16, widths=(8, 16))"
WORDS = {"low": ("deep", "bass"), "high": ("shrill", "treble"), "noise": ("hiss", "rush")}


def build_network(spec):
    backbone = BACKBONES.build(parse_spec(spec))
    logits = keras.layers.Dense(3, name="label")(backbone.features.pooled)
    return keras.Model({backbone.modality: backbone.inputs}, {"label/logits": logits}), backbone


@pytest.mark.parametrize("spec", [AUDIO, "speech_embedding(seconds=1.5, weights='none')", "convnet(size=16)"])
def test_prefix_and_suffix_compute_the_network(spec):
    """The suffix is converted to tf_keras. Image networks have no prefix."""
    model, backbone = build_network(spec)
    partition = partition_model(model)
    data = {backbone.modality: batch(backbone, 4)}
    expected = model({name: value.astype(np.float32) for name, value in data.items()}, training=False)["label/logits"]
    assert not tf_keras_bridge.list_unsupported_layers(partition.suffix)
    tf_keras_model = tf_keras_bridge.to_tf_keras(partition.suffix)
    inputs = dict(zip(sorted(partition.suffix.input), partition.compute_suffix_inputs(data), strict=True))
    logits = tf_keras_model(inputs, training=False)["label/logits"]
    np.testing.assert_allclose(logits.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)
    assert (partition.prefix is None) == (backbone.modality == "image")


def test_kernel_sizes_are_those_of_the_convolutions():
    """The Fourier transform belongs to the prefix and is not counted."""
    model, _ = build_network(AUDIO)
    assert partition_model(model).kernel_sizes == Counter(
        [3 * 3 * 8, 3 * 3 * 8 * 8, 3 * 3 * 8 * 16, 3 * 3 * 16 * 16, 32 * 3]
    )


def test_the_maximum_of_a_tensor_and_a_number_is_converted():
    """speech_embedding contains this operation."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.maximum(inputs, -0.4))
    values = np.array([[-1, -0.5, 0, 2]], np.float32)
    np.testing.assert_allclose(tf_keras_bridge.to_tf_keras(model)(values).numpy(), [[-0.4, -0.4, 0, 2]], atol=1e-6)


def test_the_slope_of_leaky_relu_is_converted():
    """Keras 2 calls it alpha."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.LeakyReLU(0.2)(inputs))
    np.testing.assert_allclose(
        tf_keras_bridge.to_tf_keras(model)(np.array([[-1, 1]], np.float32)).numpy(), [[-0.2, 1]], atol=1e-6
    )


def test_the_most_compressed_kernels_of_each_size_are_selected():
    """Kernels with more zeros come first, then kernels with fewer distinct values."""
    full, half, two, other = np.arange(1, 9), np.array([0, 0, 0, 0, 1, 2, 3, 4]), np.array([1, 2] * 4), np.arange(1, 4)
    kernels = [full, half, two, other]
    assert [kernel.tolist() for kernel in select_compressed_kernels(kernels, {8: 1})] == [half.tolist()]
    assert [kernel.tolist() for kernel in select_compressed_kernels(kernels, {8: 2})] == [half.tolist(), two.tolist()]
    assert len(select_compressed_kernels(kernels, {8: 9, 3: 1})) == 4


def test_towers_without_compressible_layers_raise_an_error(tmp_path):
    """A bag of embeddings has no layer above its tokens. The error comes before training."""
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)))
    flags = ("--backbone=bag_of_embeddings(size=24, dim=16)", "--compress=qat()", "--nocache.enabled")
    error = get_error("train", f"--data={tmp_path / 't.csv'}", *flags, f"--workdir={tmp_path / 'run'}")
    assert "--compress does not support bag_of_embeddings" in error


@pytest.mark.slow
def test_a_network_of_three_towers_is_compressed(tmp_path):
    """All files have zeros and rounding; every subset of images, sounds and texts is scored."""
    rng = np.random.default_rng(0)
    time = np.arange(2400) / 8000
    rows = []
    for row in range(90):
        kind = list(WORDS)[row % 3]
        pitch = rng.uniform(*{"low": (200, 400), "high": (1500, 2500), "noise": (0, 1)}[kind])
        tone = rng.normal(size=2400) / 3 if kind == "noise" else np.sin(2 * np.pi * pitch * time)
        with wave.open(str(tmp_path / f"{row}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((9000 * (tone + rng.normal(size=2400) / 20)).astype(np.int16))
        picture(tmp_path / f"{row}.png", row)
        text = " ".join(rng.choice(WORDS[kind], 3)) if rng.random() > 0.2 else ""
        rows.append({"image": f"{row}.png", "audio": f"{row}.wav", "text": text, "label": kind})
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    towers = (
        f"image=convnet(size=16, channels=3, widths=(4, 8)), audio={AUDIO}, text=bag_of_embeddings(size=24, dim=16)"
    )
    flags = (
        f"--data={tmp_path / 't.csv'}",
        f"--backbone={towers}",
        "--frozen.epochs=5",
        "--finetune.epochs=0",
        "--batch_size=8",
        "--nocache.enabled",
        "--compress=prune(epochs=1), qat(epochs=1)",
        "--exports=keras_file(), tflite(), tflite(quantize='int8')",
        f"--workdir={tmp_path / 'run'}",
    )
    result = run_in_process("train", *flags)
    assert result.returncode == 0, result.stderr
    assert "stay unchanged" in result.stderr
    scores = json.loads((tmp_path / "run" / "bundle" / "scores.json").read_text())
    assert scores["test"]["label/accuracy"] > 0.6
    for name in ("keras", "tflite", "tflite_int8"):
        assert scores[name]["sparsity"] > 0.48
        assert not scores[name]["failure_reason"]
    assert scores["tflite_int8"]["float_ops"] < scores["tflite"]["float_ops"]
    assert len(scores["ablations"]) == 7
