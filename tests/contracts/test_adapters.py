"""What every adapter promises; being registered is enough to be tested."""

import keras
import numpy as np
import pytest

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import ADAPTERS

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)


def network(adapter):
    """Every kind of layer that an adapter may meet, the normalization frozen as in a pretrained tower."""
    keras.utils.set_random_seed(0)
    insert = adapter.insert or (lambda name, x: x)
    inputs = keras.Input((8, 8, 3))
    x = insert("conv", keras.layers.Conv2D(6, 3, name="conv")(inputs))
    x = keras.layers.BatchNormalization(name="batch")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Reshape((16, 6))(x)
    x = insert("attention", keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x))
    x = keras.layers.LayerNormalization(name="layer")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="dense")(x))
    model.get_layer("batch").trainable = False
    return model


SMALL = {"lora": {"rank": 1}, "bottleneck": {"dim": 2}}


def shape(model):
    return [(weight.path.rsplit("/", 2)[-2:], tuple(weight.shape)) for weight in model.weights]


@pytest.mark.parametrize("name", ADAPTERS)
def test_little_is_trained_and_nothing_is_left(name):
    """A few weights move the outputs; merged, the same outputs come from a model of the form that it had."""
    adapter = ADAPTERS.build(Spec(name, (), SMALL.get(name, {})))
    model, before = network(adapter), shape(network(adapter))
    plain = model(X, training=False).numpy()
    whole = sum(weight.numpy().size for weight in model.trainable_weights)
    adapter.attach(model.layers)
    assert np.allclose(model(X, training=False), plain, atol=1e-6), "attaching changes the model"
    trained = {weight.path for weight in model.trainable_weights}
    assert 0 < sum(weight.numpy().size for weight in model.trainable_weights) < 0.75 * whole
    statistics = model.get_layer("batch").moving_mean.numpy()
    frozen = {weight.path: weight.numpy() for weight in model.weights if weight.path not in trained}
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(X, Y, epochs=3, verbose=0)
    for weight in model.weights:
        if weight.path in frozen:
            assert np.array_equal(weight.numpy(), frozen[weight.path]), weight.path
    adapted = model(X, training=False).numpy()
    assert np.abs(adapted - plain).max() > 1e-2
    assert np.array_equal(model.get_layer("batch").moving_mean.numpy(), statistics)
    adapter.merge(model.layers)
    adapter.merge(model.layers)  # a second time does nothing
    assert np.allclose(model(X, training=False), adapted, atol=1e-5)
    assert shape(model) == before


def test_a_merged_model_is_saved_and_adapted_again(tmp_path):
    """As if there had been no adapter."""
    adapter = ADAPTERS.build(Spec("lora"))
    model = network(adapter)
    adapter.attach(model.layers)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(X, Y, epochs=1, verbose=0)
    adapter.merge(model.layers)
    model.save(tmp_path / "model.keras")
    assert np.allclose(keras.models.load_model(tmp_path / "model.keras")(X), model(X), atol=1e-6)
    adapter.attach(model.layers)
    adapter.merge(model.layers)


def test_what_is_inserted_begins_as_the_identity():
    """A bottleneck behind each layer gives what the layers gave, on maps, sequences and vectors."""
    adapter = ADAPTERS.build(Spec("bottleneck", (), {"dim": 2}))
    for shape in ((4, 4, 6), (5, 6), (6,)):
        inputs = keras.Input(shape)
        output = adapter.insert("there", inputs)
        x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        model = keras.Model(inputs, output)
        assert np.array_equal(model(x), x)
        # On sequences there are no biases: places that hold nothing are zeros and have to stay so.
        biases = 0 if len(shape) == 2 else 2 + 6
        assert sum(weight.numpy().size for weight in model.weights) == 2 * 2 * 6 + biases


def test_options_have_ranges():
    """A change of rank 0 is none, and so is a bottleneck that lets nothing through."""
    with pytest.raises(UserError, match="bottleneck is out of range; received: dim=0"):
        ADAPTERS.build(Spec("bottleneck", (), {"dim": 0}))
    with pytest.raises(UserError, match="lora is out of range; received: rank=0, alpha=0"):
        ADAPTERS.build(Spec("lora", (), {"rank": 0}))
