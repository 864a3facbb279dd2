"""Tests of folding: same outputs, and no normalization behind a layer into which it can be folded."""

import keras
import numpy as np
import pytest

from tests.compression.test_tf_keras_bridge import build_network, predict, relative_difference
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm

FAMILIES = {
    "convnet()": 0,
    "efficientnet_lite0(size=64)": 0,
    "mobilenet_v3_small(weights='none', size=64)": 0,
    "densenet121(weights='none', size=64)": 62,
    "resnet50_v2(weights='none', size=64)": 17,
    "xception(weights='none', size=139)": 0,
}
"""Number of normalizations that are not folded, because they precede a convolution or follow a sum."""


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=pytest.mark.slow if "weights" in spec else ()) for spec in FAMILIES]
)
def test_outputs_stay_the_same(spec):
    """Rounding errors grow from layer to layer with random weights of deep networks."""
    model, data, _ = build_network(spec)
    folded = fold_batch_norm(model)
    expected, outputs = predict(model, {"image": data}), predict(folded, {"image": data})
    assert relative_difference(expected, outputs) < 3e-4
    normalizations = [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(normalizations) == FAMILIES[spec]
    assert not any(isinstance(layer, keras.layers.SeparableConv2D) for layer in folded.layers)


def test_a_normalization_stays_if_its_input_has_other_uses():
    """Another layer reads the output of the convolution without normalization; copies share no weights."""
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
    data, folded = {"image": rng.normal(size=(2, 8, 8, 3)).astype(np.float32)}, fold_batch_norm(model)
    assert {layer.name for layer in model.layers} - {layer.name for layer in folded.layers} == {"gone"}
    expected, outputs = model(data, training=False), folded(data, training=False)
    for name in expected:
        assert np.allclose(expected[name], outputs[name], rtol=1e-4, atol=1e-4)
    folded.get_layer("conv").set_weights([0 * weight for weight in folded.get_layer("conv").get_weights()])
    assert np.array_equal(model(data, training=False)["y"], expected["y"]), "the copy shares weights with the model"
