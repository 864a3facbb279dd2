"""The engine of a frozen trunk: LiteRT gives what Keras gives, and Keras takes what LiteRT cannot."""

import keras
import numpy as np
import pytest

from tests.contracts.test_backbones import settle
from tests.helpers.towers import batch
from tfx_finetune.core import hardware
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.training import engine
from tfx_finetune.types.components import BACKBONES

MANY = 10_000

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
# The lower half alone: the upper one repeats its blocks, and takes most of the time.
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
    """Within rounding of one another, sample by sample in order, for pooled features and for a map inside."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec(spec))
    data = batch(backbone, 5)
    # Random weights grow the rounding from layer to layer, trained ones do not.
    tolerance = 1e-5 if backbone.card.origin else 1e-3
    middle = backbone.groups[len(backbone.groups) // 2 - 1].output
    trunk = keras.Model(backbone.inputs, [middle] if spec.startswith(HALVED) else [backbone.features.pooled, middle])
    if not backbone.card.origin:
        settle(trunk, batch(backbone, 8).astype(np.float32))
    expected = [output.numpy() for output in engine._call_as_list(trunk, data.astype(np.float32))]
    for whole in expected:
        assert np.abs(whole[0] - whole[1]).max() > 1e-3 * np.abs(whole).max(), "the input does not matter"
    for run in (engine._make_litert_fn(trunk), engine._make_keras_fn(trunk)):
        for found, whole in zip(run(data), expected, strict=True):
            assert found.dtype == np.float32
            assert found.shape == whole.shape
            assert np.abs(found - whole).max() <= tolerance * np.abs(whole).max()


def trunk_of(*layers):
    inputs = keras.Input((12, 12, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def data(count):
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)


def bicubic():
    """A trunk of an operator that LiteRT does not have, as a person's own model may hold it."""
    return trunk_of(keras.layers.Resizing(6, 6, interpolation="bicubic"), keras.layers.Conv2D(4, 3))


@pytest.mark.skipif(hardware.detect().engine != "litert", reason="frozen trunks run in Keras on this machine")
def test_a_trunk_that_litert_cannot_take_runs_in_keras(capsys):
    """The outputs are the same, and one line says why it is slower."""
    trunk = bicubic()
    found = engine.make_inference_fn(trunk, MANY)(data(4))
    assert np.allclose(found, trunk(data(4).astype(np.float32)), rtol=1e-4, atol=1e-3)
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("the frozen trunk runs in Keras: LiteRT cannot take it (")
    assert "ResizeBicubic" in said.err
    assert said.out == ""


def test_few_samples_are_not_worth_a_conversion(capsys):
    """The same trunk says nothing where LiteRT is not tried."""
    trunk = bicubic()
    found = engine.make_inference_fn(trunk, 3)(data(3))
    assert np.allclose(found, trunk(data(3).astype(np.float32)), rtol=1e-4, atol=1e-3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("samples", [1, MANY])
def test_batches_of_any_size(samples):
    """The last batch of a split is smaller, and one batch may hold more samples than there are interpreters."""
    trunk = trunk_of(keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalMaxPooling2D())
    apply = engine.make_inference_fn(trunk, samples)
    for count in (1, 7, 40, 2):
        expected = trunk(data(count).astype(np.float32)).numpy()
        assert np.abs(apply(data(count)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("samples", [1, MANY])
def test_several_outputs_come_in_their_order(samples):
    """More than ten of them, whose names sort otherwise as text."""
    inputs = keras.Input((12, 12, 3))
    outputs = [keras.layers.Rescaling(1.0, number)(inputs) for number in range(12)]
    order = [5, 0, 11, 3, 10, 1, 2, 4, 6, 7, 9, 8]
    found = engine.make_inference_fn(keras.Model(inputs, [outputs[number] for number in order]), samples)(data(3))
    assert len(found) == 12
    for number, output in zip(order, found, strict=True):
        assert np.array_equal(output, data(3).astype(np.float32) + number)


@pytest.mark.parametrize("samples", [1, MANY])
def test_a_trunk_runs_in_inference_mode(samples):
    """Dropout and noise are for training; normalization uses what it has learned."""
    normalization = keras.layers.BatchNormalization()
    trunk = trunk_of(keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0), normalization)
    normalization.set_weights(list(np.array([[1, 2, 3], [0, 1, 2], [100, 110, 120], [4, 9, 16]])))
    expected = (data(6) - [100, 110, 120]) / np.sqrt(np.array([4, 9, 16]) + 1e-3) * [1, 2, 3] + [0, 1, 2]
    assert np.abs(engine.make_inference_fn(trunk, samples)(data(6)) - expected).max() < 1e-3
