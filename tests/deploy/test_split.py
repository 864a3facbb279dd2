"""Export of a model with a tower that TFLite cannot represent."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import run_command
from tests.helpers.small_data import picture
from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.ops import litert

# Kinds of text by their length; TFLite has no inverse of the error function.
TOWER = '''
import keras
from tfx_finetune.types.components import BACKBONES, Backbone, Features, LayerGroup, PretrainedCfg


@keras.saving.register_keras_serializable("odd_tower")
class Odd(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(keras.ops.tanh(keras.ops.cast(inputs, "float32") / 200.0))


@BACKBONES.register_for("text")
def odd(size: int = 12) -> Backbone:
    """Characters, bent."""
    inputs = keras.Input((size,), dtype="int32", name="text")
    bent = Odd(name="bent")(inputs)
    pooled = keras.layers.Dense(8, activation="relu", name="pooled")(bent)
    groups = (LayerGroup("pooled", ("bent", "pooled"), pooled),)
    return Backbone("text", PretrainedCfg(size=size, tokenizer="code_points()"), inputs, Features(pooled), groups)
'''


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Train a model of images and texts, and return its bundle and the log."""
    root = tmp_path_factory.mktemp("split")
    (root / "odd_tower.py").write_text(TOWER)
    with (root / "t.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "text", "label"])
        for row in range(60):
            picture(root / f"{row}.png", row)
            writer.writerow([f"{row}.png", "ab" * (1 + 3 * (row % 2)) + chr(97 + row % 20), ("short", "long")[row % 2]])
    flags = [
        f"--data={root / 't.csv'}",
        "--backbone=image=convnet(size=16, channels=3, widths=(4, 8)), text=odd()",
        "--plugins=odd_tower",
        "--frozen.epochs=3",
        "--finetune.epochs=0",
        "--exports=saved_model(), tflite(), tflite(quantize='float16')",
        f"--workdir={root / 'run'}",
        "--nocache.enabled",
    ]
    process = run_command("train", *flags, timeout=600, PYTHONPATH=f"{root}:.")
    assert process.returncode == 0, process.stderr
    return root / "run" / "bundle", process.stderr


@pytest.mark.slow
def test_split_replaces_tflite(bundle):
    """split() replaces tflite(), is verified, and records the tower that TFLite cannot represent with the reason."""
    path, log = bundle
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["verified"] == {"saved_model": True, "tflite_split": True}
    assert manifest["files"]["tflite_split"]["export"] == "split()"
    assert "TFLite cannot represent this model" in log
    assert "split() is written instead of tflite()." in log
    errors = json.loads((path / "model_split" / "towers.json").read_text())
    assert list(errors) == ["text"]
    assert "Erfinv" in errors["text"]


@pytest.mark.slow
def test_split_predicts_like_the_model(bundle):
    """The SavedModel of the tower followed by the TFLite file predicts like the whole model."""
    path, _ = bundle
    content = (path / "model_split" / "model.tflite").read_bytes()
    assert set(litert.read_input_names(content)) == {"image", "text", "modality_mask"}
    runner = litert.open_interpreter(content, 1).get_signature_runner("serving_default")
    details = runner.get_input_details()
    assert details["text"]["shape"].tolist() == [1, 8]
    text = np.array([[ord(letter) for letter in "abab"] + [0] * 8], np.int32)
    image = np.full((1, 16, 16, 3), 90, np.float32)
    modality_mask_input = np.ones((1, 2), np.float32)
    tower = tf.saved_model.load(str(path / "model_split" / "text"))
    features = tower.signatures["serving_default"](inputs=tf.constant(text))["features"].numpy()
    scores = runner(image=image, text=features, modality_mask=modality_mask_input)["label/scores"]
    saved_model = tf.saved_model.load(str(path / "saved_model")).signatures["tensor"]
    expected = saved_model(
        image=tf.constant(image), text=tf.constant(text), modality_mask=tf.constant(modality_mask_input)
    )
    np.testing.assert_allclose(scores, expected["label/scores"], atol=1e-5)
    assert np.abs(features).max() > 0
    assert Bundle.open(path).formats == ["saved_model", "tflite_split"]
