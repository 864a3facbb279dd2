"""Backbones out of detectors: each layer gives what it gives in the detector's own file."""

import functools

import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from tests.helpers.assets import asset
from tests.helpers.towers import batch
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import ssd_mobilenet
from tfx_finetune.ops import litert
from tfx_finetune.types.components import BACKBONES


@functools.cache
def photograph():
    """Scikit-image's cat as the detector takes it: float32 pixels (1, 300, 300, 3) of 0 to 255."""
    return tf.image.resize(skimage.data.chelsea()[None], (300, 300)).numpy()


def opened(values):
    """The detector's file, run by LiteRT on values (1, 300, 300, 3), all that it computed still there."""
    asset("ssd-mobilenet-v2")
    interpreter = Interpreter(model_content=ssd_mobilenet.read_detector(), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values.astype(np.float32))
    interpreter.invoke()
    return interpreter


def outputs_of_convolutions():
    """Indices of the file's outputs of convolutions, activation included, in order; those of heads are left out."""
    _, _, calls = litert.parse_operators(ssd_mobilenet.read_detector())
    kinds = schema.BuiltinOperator
    heads = {call.Inputs(0) for call, kind in calls if kind == kinds.RESHAPE}
    return [
        call.Outputs(0)
        for call, kind in calls
        if kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D) and call.Outputs(0) not in heads
    ]


def test_every_layer_gives_what_the_file_gives():
    """All 52 convolutions with what belongs to them, of a photograph: the file's weights in the file's places."""
    file = opened(photograph() / 127.5 - 1)
    backbone = BACKBONES["ssd_mobilenet_v2"](size=300)
    assert backbone.card.origin == "@mediapipe/objectron 0.4.1675468480 (npm), detector of Open Images v4"
    assert backbone.pretrained_cfg.license == "Apache-2.0"
    model = keras.Model(backbone.inputs, backbone.features.pooled)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU) or "project_BN" in layer.name]
    assert len(layers) == 52
    found = keras.Model(backbone.inputs, [layer.output for layer in layers]).predict(photograph(), verbose=0)
    for layer, ours, index in zip(layers, found, outputs_of_convolutions(), strict=False):
        theirs = file.get_tensor(index)
        assert ours.shape == theirs.shape, layer.name
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), layer.name


def test_it_is_fed_as_the_package_feeds_it():
    """The program that the package holds says so itself: 300 x 300 pixels, stretched, as floats of -1 to 1.

    The detector's scores do not tell: it finds the cat as surely in pixels of 0 to 1, or with the colours turned.
    """
    program = (asset("ssd-mobilenet-v2") / "objectron_solution_simd_wasm_bin.wasm").read_bytes()
    # Fields 1 and 2 of ImageToTensorCalculatorOptions (mediapipe) are the sides, 3 keeps the aspect, 4 is the range.
    sides, stretched = bytes([8, 0xAC, 2, 16, 0xAC, 2]), bytes([24, 0])
    span = b"\x22\x0a\x0d" + np.float32(-1).tobytes() + b"\x15" + np.float32(1).tobytes()
    options = program.find(sides + stretched + span)
    assert 0 < program.find(b"object_detection_ssd_mobilenetv2_oidv4_fp16.tflite") - options < 300
    card = BACKBONES["ssd_mobilenet_v2"](weights="none", size=64).card
    assert {(edge - card.mean[0]) / card.std[0] for edge in (0, 255)} == {-1, 1}


def test_the_file_knows_photographs():
    """So fed it is sure of the cat and of nothing else, where the labels of the package have it."""
    file = opened(photograph() / 127.5 - 1)
    (index,) = (one["index"] for one in file.get_output_details() if one["name"].endswith("class_predictions"))
    scores = 1 / (1 + np.exp(-file.get_tensor(index)[0, :, 1:].max(0)))
    labels = (
        (asset("ssd-mobilenet-v2") / "objectron_solution_packed_assets.data").read_bytes()[:184].decode().split("\n")
    )
    assert labels[1 + scores.argmax()] == "Cat"
    assert scores.max() == pytest.approx(0.85, abs=0.02)
    assert np.sort(scores)[-2] < 0.3


def test_weights_from_a_path(tmp_path):
    """Those of keras.applications.MobileNetV2, whose graph this is; of another network they are refused."""
    path = tmp_path / "own.weights.h5"
    source = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3))
    source.save_weights(path)
    backbone = BACKBONES["ssd_mobilenet_v2"](weights=str(path), size=64)
    data = batch(backbone)
    expected = source.predict(data / 127.5 - 1, verbose=0).mean((1, 2))
    found = keras.Model(backbone.inputs, backbone.features.pooled).predict(data, verbose=0)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert backbone.card.origin == str(path)
    keras.applications.MobileNetV3Small(weights=None, include_top=False).save_weights(path)
    with pytest.raises(UserError, match="these are not weights of ssd_mobilenet_v2"):
        BACKBONES["ssd_mobilenet_v2"](weights=str(path), size=64)
    with pytest.raises(UserError, match="received: imagenet; allowed: openimages, none or a path"):
        BACKBONES["ssd_mobilenet_v2"](weights="imagenet")
