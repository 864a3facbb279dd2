"""Tests of the conversion to tf_keras: same outputs for every supported family, and weights that are copied back."""

import keras
import numpy as np
import pytest

from tests.contracts.test_backbones import settle
from tests.helpers.towers import batch
from tests.training.test_engine import FAMILIES, HALVED
from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import BACKBONES, NECKS

QUICK = ("convnet()", "efficientnet_lite0(size=64)", "mobilenet_v3_small(weights='none', size=64)")
SPECS = {*FAMILIES, "mobilenet_v3_large(weights='none', size=64)", "efficientnet_lite1(size=64)"}


def build_network(spec, half=False):
    """Return a model with two heads, inputs, and the origin of its weights; `half` for the lower half of the tower."""
    keras.utils.set_random_seed(0)
    backbone = BACKBONES.build(parse_spec(spec))
    x = backbone.features.pooled
    if half:
        x = keras.layers.GlobalAveragePooling2D()(backbone.groups[len(backbone.groups) // 2 - 1].output)
    if not backbone.pretrained_cfg.origin:
        settle(keras.Model(backbone.inputs, x), batch(backbone, 8).astype(np.float32))
    x = keras.layers.Dropout(0.2)(x)
    outputs = {"kind/logits": keras.layers.Dense(3, name="kind")(x), "seen/logits": keras.layers.Dense(2)(x)}
    return (
        keras.Model({"image": backbone.inputs}, outputs),
        batch(backbone, 4).astype(np.float32),
        backbone.pretrained_cfg.origin,
    )


def relative_difference(expected, outputs):
    """Return the largest difference of two sets of outputs, relative to the largest expected value."""
    assert set(expected) == set(outputs)
    return max(np.abs(expected[name] - outputs[name]).max() / np.abs(expected[name]).max() for name in expected)


def predict(model, inputs):
    """Return the outputs of a model in inference as NumPy arrays."""
    return {name: value.numpy() for name, value in model(inputs, training=False).items()}


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=() if spec in QUICK else pytest.mark.slow) for spec in sorted(SPECS)]
)
def test_a_converted_model_has_the_same_outputs(spec):
    """Weights are copied in both directions. Rounding errors of deep networks grow with random weights only."""
    model, data, pretrained = build_network(spec, half=spec.startswith(HALVED))
    tf_keras_model = tf_keras_bridge.to_tf_keras(model)
    expected = predict(model, {"image": data})
    assert max(np.abs(value[0] - value[1]).max() for value in expected.values()) > 1e-3, "the input has no effect"
    outputs = predict(tf_keras_model, {"image": data})
    tolerance = 1e-5 if pretrained else 3e-4
    assert relative_difference(expected, outputs) < tolerance
    assert tf_keras_model.count_params() == model.count_params() - count_normalization_parameters(model)
    rng = np.random.default_rng(0)
    for layer in tf_keras_model.layers:
        layer.set_weights([value * rng.uniform(0.9, 1.1, value.shape) for value in layer.get_weights()])
    changed = predict(tf_keras_model, {"image": data})
    assert relative_difference(expected, changed) > 1e-3
    tf_keras_bridge.copy_weights_back(tf_keras_model, model)
    assert relative_difference(predict(model, {"image": data}), changed) < tolerance


def count_normalization_parameters(model):
    """Count the parameters of layers that become constants."""
    return sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Normalization))


def test_converted_layers_keep_their_names():
    """Additional layers have names that start with the original name; trainable layers stay trainable."""
    model, _, _ = build_network("mobilenet_v3_small(weights='none', size=64)")
    for layer in model.layers[:20]:
        layer.trainable = False
    tf_keras_model = tf_keras_bridge.to_tf_keras(model)
    names = {layer.name for layer in model.layers}
    assert names <= {layer.name for layer in tf_keras_model.layers}
    added = {layer.name for layer in tf_keras_model.layers} - names
    assert all(
        any(name.startswith(prefix) for prefix in names) or name.startswith(("add", "multiply")) for name in added
    )
    assert {w.name.split("/")[0] for w in tf_keras_model.trainable_weights} == {
        layer.name for layer in model.layers if layer.trainable_weights
    }


def test_unsupported_layers_are_listed():
    """The conversion raises an error that names them."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GroupNormalization(3)(inputs)
    x = keras.layers.Activation("mish")(x)
    model = keras.Model(inputs, keras.layers.Flatten()(keras.ops.sin(x)))
    assert tf_keras_bridge.list_unsupported_layers(model) == ["Activation(mish)", "GroupNormalization", "Sin"]
    with pytest.raises(UserError, match=r"Keras 2 lacks layers of the model: Activation\(mish\), GroupNorm"):
        tf_keras_bridge.to_tf_keras(model)


def test_bifpn_is_converted():
    """The fusion weights become constants; the weights of other layers are copied back."""
    keras.utils.set_random_seed(0)
    pyramid = {"P3": keras.Input((9, 9, 8)), "P4": keras.Input((5, 5, 8)), "P5": keras.Input((3, 3, 8))}
    model = keras.Model(list(pyramid.values()), NECKS.build(parse_spec("bifpn(dim=8, repeats=1)"), pyramid))
    data = [np.random.default_rng(0).normal(size=(2, *x.shape[1:])).astype(np.float32) for x in model.inputs]
    for layer in model.layers:
        if type(layer).__name__ == "Fusion":
            layer.set_weights([np.linspace(0.2, 1.5, *layer.weights[0].shape)])
    expected = predict(model, data)
    tf_keras_model = tf_keras_bridge.to_tf_keras(model)
    assert relative_difference(expected, predict(tf_keras_model, data)) < 1e-5
    for layer in tf_keras_model.layers:
        layer.set_weights([value * 1.1 for value in layer.get_weights()])
    tf_keras_bridge.copy_weights_back(tf_keras_model, model)
    changed = predict(tf_keras_model, data)
    assert relative_difference(expected, changed) > 1e-3
    assert relative_difference(changed, predict(model, data)) < 1e-5
