"""Tests of inference of frozen parts: LiteRT has the outputs of Keras, and Keras runs what LiteRT cannot convert."""

import keras
import numpy as np
import pytest

from tests.contracts.test_backbones import settle
from tests.helpers.towers import batch
from tfx_finetune.core import hardware
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.training import engine
from tfx_finetune.types.components import BACKBONES

MANY_SAMPLES = 10_000

FAMILIES = {
    "convnet()": (),
    "efficientnet_lite0(size=64)": (),
    "mobilenet(weights='none', size=64)": (),
    "convnext_tiny(weights='none', size=64)": pytest.mark.slow,
    "densenet121(weights='none', size=64)": pytest.mark.slow,
    "efficientnet_b0(weights='none', size=64)": pytest.mark.slow,
    "efficientnet_v2_b0(weights='none', size=64)": pytest.mark.slow,
    "inception_resnet_v2(weights='none', size=75)": pytest.mark.slow,
    "inception_v3(weights='none', size=75)": pytest.mark.slow,
    "mobilenet_v2(weights='none', size=64)": pytest.mark.slow,
    "mobilenet_v3_small(weights='none', size=64)": pytest.mark.slow,
    "nasnet_mobile(weights='none', size=64)": pytest.mark.slow,
    "resnet50(weights='none', size=64)": pytest.mark.slow,
    "resnet50_v2(weights='none', size=64)": pytest.mark.slow,
    "torchvision_mobilenet_v2(size=64)": pytest.mark.slow,
    "vgg16(weights='none', size=64)": pytest.mark.slow,
    "xception(weights='none', size=71)": pytest.mark.slow,
}
# Only the lower half is tested, because the upper half repeats its blocks and takes most of the time.
HALVED = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2",
    "inception",
    "nasnet_mobile",
    "resnet50",
    "xception",
)


@pytest.mark.parametrize("spec", [pytest.param(spec, marks=marks) for spec, marks in FAMILIES.items()])
def test_litert_agrees_with_keras(spec):
    """Pooled features and a feature map are equal up to rounding, in the order of the samples."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec(spec))
    data = batch(backbone, 5)
    # Rounding errors grow from layer to layer with random weights, not with trained weights.
    tolerance = 1e-5 if backbone.pretrained_cfg.origin else 1e-3
    middle = backbone.groups[len(backbone.groups) // 2 - 1].output
    trunk = keras.Model(backbone.inputs, [middle] if spec.startswith(HALVED) else [backbone.features.pooled, middle])
    if not backbone.pretrained_cfg.origin:
        settle(trunk, batch(backbone, 8).astype(np.float32))
    expected = [output.numpy() for output in engine._call_as_list(trunk, data.astype(np.float32))]
    for output in expected:
        assert np.abs(output[0] - output[1]).max() > 1e-3 * np.abs(output).max(), "the input has no effect"
    for run in (engine._make_litert_fn(trunk), engine._make_keras_fn(trunk)):
        for output, reference in zip(run(data), expected, strict=True):
            assert output.dtype == np.float32
            assert output.shape == reference.shape
            assert np.abs(output - reference).max() <= tolerance * np.abs(reference).max()


def make_trunk(*layers):
    inputs = keras.Input((12, 12, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def make_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)


def make_bicubic_trunk():
    """Return a model with an operation that LiteRT lacks."""
    return make_trunk(keras.layers.Resizing(6, 6, interpolation="bicubic"), keras.layers.Conv2D(4, 3))


@pytest.mark.skipif(hardware.detect().engine != "litert", reason="frozen parts run in Keras on this machine")
def test_keras_runs_what_litert_cannot_convert(capsys):
    """The outputs are the same, and one line says why inference is slower."""
    trunk = make_bicubic_trunk()
    outputs = engine.make_inference_fn(trunk, MANY_SAMPLES)(make_images(4))
    assert np.allclose(outputs, trunk(make_images(4).astype(np.float32)), rtol=1e-4, atol=1e-3)
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("the frozen part runs in Keras because LiteRT cannot convert it (")
    assert "ResizeBicubic" in printed.err
    assert printed.out == ""


def test_few_samples_run_in_keras_without_conversion(capsys):
    """Nothing is printed if no conversion is tried."""
    trunk = make_bicubic_trunk()
    outputs = engine.make_inference_fn(trunk, 3)(make_images(3))
    assert np.allclose(outputs, trunk(make_images(3).astype(np.float32)), rtol=1e-4, atol=1e-3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("samples", [1, MANY_SAMPLES])
def test_batches_may_have_any_size(samples):
    """The last batch of a split is smaller, and a batch may have more samples than there are interpreters."""
    trunk = make_trunk(keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalMaxPooling2D())
    run = engine.make_inference_fn(trunk, samples)
    for count in (1, 7, 40, 2):
        expected = trunk(make_images(count).astype(np.float32)).numpy()
        assert np.abs(run(make_images(count)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("samples", [1, MANY_SAMPLES])
def test_outputs_keep_their_order(samples):
    """There are more than ten outputs, whose names have another order as text."""
    inputs = keras.Input((12, 12, 3))
    outputs = [keras.layers.Rescaling(1.0, number)(inputs) for number in range(12)]
    order = [5, 0, 11, 3, 10, 1, 2, 4, 6, 7, 9, 8]
    model = keras.Model(inputs, [outputs[number] for number in order])
    outputs_in_order = engine.make_inference_fn(model, samples)(make_images(3))
    assert len(outputs_in_order) == 12
    for number, output in zip(order, outputs_in_order, strict=True):
        assert np.array_equal(output, make_images(3).astype(np.float32) + number)


@pytest.mark.parametrize("samples", [1, MANY_SAMPLES])
def test_models_run_in_inference_mode(samples):
    """Dropout and noise have no effect, and normalization uses its moving statistics."""
    normalization = keras.layers.BatchNormalization()
    trunk = make_trunk(keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0), normalization)
    normalization.set_weights(list(np.array([[1, 2, 3], [0, 1, 2], [100, 110, 120], [4, 9, 16]])))
    expected = (make_images(6) - [100, 110, 120]) / np.sqrt(np.array([4, 9, 16]) + 1e-3) * [1, 2, 3] + [0, 1, 2]
    assert np.abs(engine.make_inference_fn(trunk, samples)(make_images(6)) - expected).max() < 1e-3
