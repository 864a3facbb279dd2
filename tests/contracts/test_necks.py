"""Contract of necks: every registered neck is tested."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops import litert
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.types.components import NECKS

SIDES = {
    "even": {"P3": 16, "P4": 8, "P5": 4},
    "odd": {"P2": 37, "P3": 19, "P4": 10, "P5": 5},
    # Networks without padding lose pixels.
    "unpadded": {"P3": 21, "P4": 10, "P5": 4},
    "two": {"P4": 5, "P5": 3},
    "one": {"P5": 3},
}


def model(name, sides):
    keras.utils.set_random_seed(0)
    pyramid = {
        level: keras.Input((side, side, 8 * number), name=level)
        for number, (level, side) in enumerate(sides.items(), 1)
    }
    return keras.Model(pyramid, NECKS.build(Spec(name, (), {"dim": 12}), pyramid))


def maps(sides, count=2):
    rng = np.random.default_rng(0)
    return {
        level: rng.normal(size=(count, side, side, 8 * number)).astype(np.float32)
        for number, (level, side) in enumerate(sides.items(), 1)
    }


def settle(network, data):
    """Set the statistics of batch normalization to those of the input, and return the outputs."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(data, training=True)
    return {level: value.numpy() for level, value in network(data, training=False).items()}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("name", NECKS)
def test_levels_keep_their_sides_and_get_equal_channels(name, sides):
    """Levels stay in order, also if a side is not twice the side of the next level."""
    outputs = settle(model(name, sides), maps(sides))
    assert {level: value.shape for level, value in outputs.items()} == {
        level: (2, side, side, 12) for level, side in sides.items()
    }
    assert list(outputs) == list(sides)
    assert all(np.isfinite(value).all() and value.std() > 1e-3 for value in outputs.values())


@pytest.mark.parametrize("name", NECKS)
def test_all_levels_depend_on_the_coarsest(name):
    """A change of the coarsest level changes every output."""
    sides = SIDES["odd"]
    network, data = model(name, sides), maps(sides)
    before = settle(network, data)
    data["P5"] = data["P5"] + 1
    for level, value in network(data, training=False).items():
        assert np.abs(value - before[level]).max() > 1e-3, level


@pytest.mark.parametrize("name", NECKS)
def test_a_neck_is_saved(name, tmp_path):
    """The Keras file loads in safe mode."""
    sides = SIDES["odd"]
    network, data = model(name, sides), maps(sides)
    before = settle(network, data)
    network.save(tmp_path / "neck.keras")
    for level, value in load_keras_model(tmp_path / "neck.keras")(data, training=False).items():
        assert np.allclose(value, before[level], atol=1e-6)


@pytest.mark.parametrize("name", NECKS)
def test_tflite_computes_the_same(name):
    """TFLite needs builtin operators only."""
    sides = SIDES["odd"]
    network, data = model(name, sides), maps(sides, 1)
    expected = settle(network, data)
    specs = [tf.TensorSpec(value.shape, name=level) for level, value in data.items()]
    frozen = litert.freeze(
        lambda *inputs: list(network(dict(zip(data, inputs, strict=True)), training=False).values()), specs
    )
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    runner = litert.open_interpreter(content, 1)
    for detail in runner.get_input_details():
        runner.set_tensor(detail["index"], next(x for x in data.values() if x.shape == tuple(detail["shape"])))
    runner.invoke()
    outputs = {detail["shape"][1]: runner.get_tensor(detail["index"]) for detail in runner.get_output_details()}
    for value in expected.values():
        assert np.allclose(outputs[value.shape[1]], value, atol=1e-4)


@pytest.mark.parametrize("name", NECKS)
def test_dim_below_one_is_refused(name):
    """The error is a UserError, not a traceback of Keras."""
    with pytest.raises(UserError, match=rf"Options of {name}\(\) are out of range: dim=0\. Expected: dim >= 1\."):
        NECKS.build(Spec(name, (), {"dim": 0}), {})


def test_fusion_is_a_weighted_mean():
    """Fast normalized fusion equals NumPy; weights below 0 count as 0."""
    from tfx_finetune.models.necks import FastNormalizedFusion

    layer = FastNormalizedFusion()
    tensors = [np.full((1, 2, 2, 1), value, np.float32) for value in (1, 2, 4)]
    layer(tensors)
    layer.set_weights([np.array([3.0, -1.0, 1.0])])
    assert np.allclose(layer(tensors), (3 * 1 + 1 * 4) / 4.0001)
