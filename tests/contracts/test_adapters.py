"""Contract of adapters: every registered adapter is tested."""

import keras
import numpy as np
import pytest

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import ADAPTERS

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)


def network(adapter):
    """Build a model of all kinds of layers, with frozen batch normalization as in a pretrained tower."""
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


def list_shapes(model):
    return [(weight.path.rsplit("/", 2)[-2:], tuple(weight.shape)) for weight in model.weights]


@pytest.mark.parametrize("name", ADAPTERS)
def test_few_weights_are_trained_and_merged(name):
    """Training few weights changes the outputs; after merging, the model has its original weights and these outputs."""
    adapter = ADAPTERS.build(Spec(name, (), SMALL.get(name, {})))
    model, before = network(adapter), list_shapes(network(adapter))
    plain = model(X, training=False).numpy()
    num_trainable = sum(weight.numpy().size for weight in model.trainable_weights)
    adapter.attach(model.layers)
    assert np.allclose(model(X, training=False), plain, atol=1e-6), "attaching changes the model"
    trained = {weight.path for weight in model.trainable_weights}
    assert 0 < sum(weight.numpy().size for weight in model.trainable_weights) < 0.75 * num_trainable
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
    adapter.merge(model.layers)  # merging twice has no effect
    assert np.allclose(model(X, training=False), adapted, atol=1e-5)
    assert list_shapes(model) == before


def test_a_merged_model_is_saved_and_adapted_again(tmp_path):
    """After merging, the model is saved, loaded and adapted like one without adapter."""
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


def test_inserted_layers_are_initialized_to_the_identity():
    """A bottleneck adapter does not change feature maps, sequences and vectors before training."""
    adapter = ADAPTERS.build(Spec("bottleneck", (), {"dim": 2}))
    for shape in ((4, 4, 6), (5, 6), (6,)):
        inputs = keras.Input(shape)
        output = adapter.insert("group", inputs)
        x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        model = keras.Model(inputs, output)
        assert np.array_equal(model(x), x)
        # Sequences have no biases, so that padding stays zero.
        biases = 0 if len(shape) == 2 else 2 + 6
        assert sum(weight.numpy().size for weight in model.weights) == 2 * 2 * 6 + biases


def test_invalid_options_are_refused():
    """Rank and bottleneck size are at least 1."""
    with pytest.raises(UserError, match=r"Options of bottleneck\(\) are out of range: dim=0\. Expected: dim >= 1\."):
        ADAPTERS.build(Spec("bottleneck", (), {"dim": 0}))
    with pytest.raises(
        UserError, match=r"Options of lora\(\) are out of range: rank=0, alpha=0\.0\. Expected: rank >= 1, alpha >= 0\."
    ):
        ADAPTERS.build(Spec("lora", (), {"rank": 0}))
