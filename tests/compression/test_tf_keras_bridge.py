"""The twin in Keras 2 gives what the Keras 3 model gives, for every family that has one, and its weights come back."""

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


def network(spec, half=False):
    """A whole model of two heads on random or pretrained weights; of its tower the lower half, whose blocks recur."""
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


def apart(ours, theirs):
    assert set(ours) == set(theirs)
    return max(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max() for name in ours)


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=() if spec in QUICK else pytest.mark.slow) for spec in sorted(SPECS)]
)
def test_a_twin_gives_the_same_answers(spec):
    """There and back. Random weights of deep networks grow the rounding from layer to layer, trained ones do not."""
    model, data, pretrained = network(spec, half=spec.startswith(HALVED))
    copy = tf_keras_bridge.to_tf_keras(model)
    ours = {name: value.numpy() for name, value in model({"image": data}, training=False).items()}
    assert max(np.abs(value[0] - value[1]).max() for value in ours.values()) > 1e-3, "the input does not matter"
    theirs = {name: value.numpy() for name, value in copy({"image": data}, training=False).items()}
    tolerance = 1e-5 if pretrained else 3e-4
    assert apart(ours, theirs) < tolerance
    assert copy.count_params() == model.count_params() - unweighted(model)
    rng = np.random.default_rng(0)
    for layer in copy.layers:
        layer.set_weights([value * rng.uniform(0.9, 1.1, value.shape) for value in layer.get_weights()])
    changed = {name: value.numpy() for name, value in copy({"image": data}, training=False).items()}
    assert apart(ours, changed) > 1e-3
    tf_keras_bridge.copy_weights_back(copy, model)
    assert (
        apart({name: value.numpy() for name, value in model({"image": data}, training=False).items()}, changed)
        < tolerance
    )


def unweighted(model):
    """Numbers of layers that become a scale and an offset."""
    return sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Normalization))


def test_a_layer_is_called_by_its_name():
    """TF-MOT's reports name the layers that a person knows; what is trained stays trained."""
    model, _, _ = network("mobilenet_v3_small(weights='none', size=64)")
    for layer in model.layers[:20]:
        layer.trainable = False
    copy = tf_keras_bridge.to_tf_keras(model)
    names = {layer.name for layer in model.layers}
    assert names <= {layer.name for layer in copy.layers}
    added = {layer.name for layer in copy.layers} - names
    assert all(any(name.startswith(stem) for stem in names) or name.startswith(("add", "multiply")) for name in added)
    assert {w.name.split("/")[0] for w in copy.trainable_weights} == {
        layer.name for layer in model.layers if layer.trainable_weights
    }


def test_a_stranger_is_named():
    """Before anything is trained."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GroupNormalization(3)(inputs)
    x = keras.layers.Activation("mish")(x)
    model = keras.Model(inputs, keras.layers.Flatten()(keras.ops.sin(x)))
    assert tf_keras_bridge.list_unsupported_layers(model) == ["Activation(mish)", "GroupNormalization", "Sin"]
    with pytest.raises(UserError, match=r"Keras 2 lacks layers of the model: Activation\(mish\), GroupNorm"):
        tf_keras_bridge.to_tf_keras(model)


def test_a_weighted_neck_has_a_twin():
    """The learned shares of bifpn() become numbers; what is behind them is brought back."""
    keras.utils.set_random_seed(0)
    pyramid = {"P3": keras.Input((9, 9, 8)), "P4": keras.Input((5, 5, 8)), "P5": keras.Input((3, 3, 8))}
    model = keras.Model(list(pyramid.values()), NECKS.build(parse_spec("bifpn(dim=8, repeats=1)"), pyramid))
    data = [np.random.default_rng(0).normal(size=(2, *x.shape[1:])).astype(np.float32) for x in model.inputs]
    for layer in model.layers:
        if type(layer).__name__ == "FastNormalizedFusion":
            layer.set_weights([np.linspace(0.2, 1.5, *layer.weights[0].shape)])
    ours = {level: value.numpy() for level, value in model(data, training=False).items()}
    copy = tf_keras_bridge.to_tf_keras(model)
    assert apart(ours, {level: value.numpy() for level, value in copy(data, training=False).items()}) < 1e-5
    for layer in copy.layers:
        layer.set_weights([value * 1.1 for value in layer.get_weights()])
    tf_keras_bridge.copy_weights_back(copy, model)
    changed = {level: value.numpy() for level, value in copy(data, training=False).items()}
    assert apart(ours, changed) > 1e-3
    assert apart(changed, {level: value.numpy() for level, value in model(data, training=False).items()}) < 1e-5
