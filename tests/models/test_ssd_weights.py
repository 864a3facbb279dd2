"""Backbone from a detector: each layer has the output of the detector's TFLite file."""

import functools

import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from tests.helpers.assets import fetch_asset
from tests.helpers.towers import batch
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import ssd_mobilenet
from tfx_finetune.ops import litert
from tfx_finetune.types.components import BACKBONES


@functools.cache
def photograph():
    """Return scikit-image's cat as input of the detector: float32 pixels (1, 300, 300, 3) from 0 to 255."""
    return tf.image.resize(skimage.data.chelsea()[None], (300, 300)).numpy()


def run_detector(values):
    """Run the detector's file in LiteRT on (1, 300, 300, 3) and keep all intermediate tensors."""
    fetch_asset("ssd-mobilenet-v2")
    interpreter = Interpreter(model_content=ssd_mobilenet.read_detector(), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values.astype(np.float32))
    interpreter.invoke()
    return interpreter


def outputs_of_convolutions():
    """Return the indexes of the outputs of convolutions, after activation, in order and without the heads."""
    _, _, calls = litert.parse_operators(ssd_mobilenet.read_detector())
    kinds = schema.BuiltinOperator
    heads = {call.Inputs(0) for call, kind in calls if kind == kinds.RESHAPE}
    return [
        call.Outputs(0)
        for call, kind in calls
        if kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D) and call.Outputs(0) not in heads
    ]


def test_every_layer_has_the_output_of_the_file():
    """All 52 convolutions with normalization and activation, on a photograph."""
    file = run_detector(photograph() / 127.5 - 1)
    backbone = BACKBONES["ssd_mobilenet_v2"](size=300)
    assert backbone.pretrained_cfg.origin == "@mediapipe/objectron 0.4.1675468480 (npm), detector of Open Images v4"
    assert backbone.pretrained_cfg.license == "Apache-2.0"
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU) or "project_BN" in layer.name]
    assert len(layers) == 52
    outputs = keras.Model(backbone.inputs, [layer.output for layer in layers]).predict(photograph(), verbose=0)
    for layer, output, index in zip(layers, outputs, outputs_of_convolutions(), strict=False):
        expected = file.get_tensor(index)
        assert output.shape == expected.shape, layer.name
        assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max(), layer.name


def test_input_normalization_is_that_of_the_package():
    """The program in the package contains its options: 300 x 300 pixels, stretched, as floats from -1 to 1.

    The detector's scores do not show it: they are as high for pixels from 0 to 1, or with reversed channels.
    """
    program = (fetch_asset("ssd-mobilenet-v2") / "objectron_solution_simd_wasm_bin.wasm").read_bytes()
    # Fields 1 and 2 of ImageToTensorCalculatorOptions (mediapipe) are the sides, 3 keeps the aspect, 4 is the range.
    sides, stretched = bytes([8, 0xAC, 2, 16, 0xAC, 2]), bytes([24, 0])
    span = b"\x22\x0a\x0d" + np.float32(-1).tobytes() + b"\x15" + np.float32(1).tobytes()
    options = program.find(sides + stretched + span)
    assert 0 < program.find(b"object_detection_ssd_mobilenetv2_oidv4_fp16.tflite") - options < 300
    cfg = BACKBONES["ssd_mobilenet_v2"](weights="none", size=64).pretrained_cfg
    assert {(edge - cfg.mean[0]) / cfg.std[0] for edge in (0, 255)} == {-1, 1}


def test_the_file_recognizes_a_photograph():
    """With this normalization, the detector is certain of the cat alone, by the package's own labels."""
    file = run_detector(photograph() / 127.5 - 1)
    (index,) = (one["index"] for one in file.get_output_details() if one["name"].endswith("class_predictions"))
    scores = 1 / (1 + np.exp(-file.get_tensor(index)[0, :, 1:].max(0)))
    labels = (
        (fetch_asset("ssd-mobilenet-v2") / "objectron_solution_packed_assets.data")
        .read_bytes()[:184]
        .decode()
        .split("\n")
    )
    assert labels[1 + scores.argmax()] == "Cat"
    assert scores.max() == pytest.approx(0.85, abs=0.02)
    assert np.sort(scores)[-2] < 0.3


def test_weights_from_a_path(tmp_path):
    """Weights of keras.applications.MobileNetV2 have the same graph; weights of another network are refused."""
    path = tmp_path / "own.weights.h5"
    source = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3))
    source.save_weights(path)
    backbone = BACKBONES["ssd_mobilenet_v2"](weights=str(path), size=64)
    data = batch(backbone)
    expected = source.predict(data / 127.5 - 1, verbose=0).mean((1, 2))
    features = keras.Model(backbone.inputs, backbone.features.pooled).predict(data, verbose=0)
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()
    assert backbone.pretrained_cfg.origin == str(path)
    keras.applications.MobileNetV3Small(weights=None, include_top=False).save_weights(path)
    with pytest.raises(UserError, match="The file does not hold weights of ssd_mobilenet_v2"):
        BACKBONES["ssd_mobilenet_v2"](weights=str(path), size=64)
    with pytest.raises(
        UserError, match=r"The weights file does not exist: imagenet\. Expected: openimages, none or a path\."
    ):
        BACKBONES["ssd_mobilenet_v2"](weights="imagenet")
