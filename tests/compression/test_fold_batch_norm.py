"""A folded network gives what the network gives, and has no normalization behind a layer that could take it in."""

import keras
import numpy as np
import pytest

from tests.compression.test_tf_keras_bridge import apart, network
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm

FAMILIES = {
    "convnet()": 0,
    "efficientnet_lite0(size=64)": 0,
    "mobilenet_v3_small(weights='none', size=64)": 0,
    "densenet121(weights='none', size=64)": 62,
    "resnet50_v2(weights='none', size=64)": 17,
    "xception(weights='none', size=139)": 0,
}
"""Normalizations that stay, each in front of its convolution or behind a sum."""


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=pytest.mark.slow if "weights" in spec else ()) for spec in FAMILIES]
)
def test_answers_stay(spec):
    """Random weights of deep networks grow the rounding from layer to layer."""
    model, data, _ = network(spec)
    found = fold_batch_norm(model)
    ours, theirs = (
        {name: value.numpy() for name, value in one({"image": data}, training=False).items()} for one in (model, found)
    )
    assert apart(ours, theirs) < 3e-4
    left = [layer for layer in found.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(left) == FAMILIES[spec]
    assert not any(isinstance(layer, keras.layers.SeparableConv2D) for layer in found.layers)


def test_a_shared_result_keeps_its_normalization():
    """What another layer reads, unnormalized, cannot be normalized in place; the weights of both stay apart."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    normalized = keras.layers.BatchNormalization(name="kept")(x)
    y = keras.layers.Conv2D(4, 3, activation="relu", name="active")(normalized)
    y = keras.layers.BatchNormalization(name="behind")(y)
    z = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=True, name="deep")(x)
    z = keras.layers.BatchNormalization(name="gone", scale=False)(z)
    model = keras.Model({"image": inputs}, {"y": y, "z": z})
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    data, found = {"image": rng.normal(size=(2, 8, 8, 3)).astype(np.float32)}, fold_batch_norm(model)
    assert {layer.name for layer in model.layers} - {layer.name for layer in found.layers} == {"gone"}
    ours, theirs = model(data, training=False), found(data, training=False)
    for name in ours:
        assert np.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
    found.get_layer("conv").set_weights([0 * weight for weight in found.get_layer("conv").get_weights()])
    assert np.array_equal(model(data, training=False)["y"], ours["y"]), "the copy shares weights with the model"
