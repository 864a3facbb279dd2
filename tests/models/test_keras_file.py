"""Backbones from Keras files: functional and sequential models of one image, and no file that runs code."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.types.components import BACKBONES

DATA = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def body(inputs):
    x = inputs
    for number, width in enumerate((8, 12, 16)):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    return x


def functional(size=16, channels=3):
    inputs = keras.Input((size, size, channels))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(body(inputs))
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="dense")(x))


def sequential():
    layers = [keras.layers.Conv2D(6, 3, name="one"), keras.layers.Flatten(), keras.layers.Dense(7, name="dense")]
    return keras.Sequential([keras.Input((16, 16, 3)), *layers])


def saved(model, tmp_path, name="own.keras"):
    model.save(tmp_path / name)
    return str(tmp_path / name)


def run(backbone, data=DATA):
    return keras.Model(backbone.inputs, backbone.features.pooled)(data, training=False).numpy()


@pytest.mark.parametrize("make", [functional, sequential])
@pytest.mark.parametrize("name", ["own.keras", "own.h5"])
def test_features_equal_the_outputs_of_the_file(make, name, tmp_path):
    """Functional and sequential models in both Keras formats; the configuration names the file."""
    model = make()
    backbone = BACKBONES["keras_file"](path=saved(model, tmp_path, name))
    assert np.allclose(run(backbone), model(DATA.astype(np.float32)), atol=1e-5)
    assert backbone.pretrained_cfg.origin == str(tmp_path / name)
    assert backbone.pretrained_cfg.sha256 == files.sha256(tmp_path / name)
    assert (backbone.pretrained_cfg.size, backbone.pretrained_cfg.channels) == (16, 3)


def test_a_feature_map_by_its_layer(tmp_path):
    """The option layer removes the head; a feature map is averaged, and the strides make a pyramid."""
    model = functional()
    backbone = BACKBONES["keras_file"](path=saved(model, tmp_path), layer="relu2")
    maps = keras.Model(model.input, model.get_layer("relu2").output)(DATA.astype(np.float32)).numpy()
    assert maps.shape == (3, 2, 2, 16)
    assert np.allclose(run(backbone), maps.mean((1, 2)), atol=1e-5)
    assert {level: tensor.shape[1:] for level, tensor in backbone.features.pyramid.items()} == {
        "P2": (4, 4, 12),
        "P3": (2, 2, 16),
    }
    assert [group.name for group in backbone.groups] == ["own_relu2"]


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_normalize_the_input(channels, tmp_path):
    """The options have one value for all channels, or one per channel."""
    model, data = functional(channels=channels), DATA[..., :channels]
    path = saved(model, tmp_path)
    for mean, std in (((127.5,), (64.0,)), ((10.0, 20.0, 30.0)[:channels], (1.0, 2.0, 3.0)[:channels])):
        backbone = BACKBONES["keras_file"](path=path, mean=mean, std=std)
        assert np.allclose(run(backbone, data), model((data - np.array(mean)) / np.array(std)), atol=1e-4)
        assert len(backbone.pretrained_cfg.mean) == len(backbone.pretrained_cfg.std) == channels


def test_nested_models(tmp_path):
    """The Keras transfer-learning guide saves such files; their inner layers can be selected and cut."""
    keras.utils.set_random_seed(0)
    inner_inputs = keras.Input((None, None, 3))
    inner = keras.Model(inner_inputs, body(inner_inputs), name="base")
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(keras.layers.Rescaling(1 / 255)(inputs), training=False))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    path = saved(model, tmp_path)
    backbone = BACKBONES["keras_file"](path=path)
    assert np.allclose(run(backbone), model(DATA.astype(np.float32)), atol=1e-5)
    assert len([layer for group in backbone.groups for layer in group.layers]) == 12
    for layer, shape in (("base", 16), ("relu2", 16), ("relu1", 12)):
        assert BACKBONES["keras_file"](path=path, layer=layer).features.pooled.shape == (None, shape)


def test_open_input_size(tmp_path):
    """A convolutional model without a fixed input size needs the option size."""
    path = saved(keras.Model(inputs := keras.Input((None, None, 3)), body(inputs)), tmp_path)
    backbone = BACKBONES["keras_file"](path=path, size=16)
    maps = keras.models.load_model(path)(DATA.astype(np.float32)).numpy()
    assert np.allclose(run(backbone), maps.mean((1, 2)), atol=1e-5)
    assert backbone.pretrained_cfg.size == 16
    with pytest.raises(UserError, match=r"The Keras model has no fixed input size\. Give the option size, in pixels\."):
        BACKBONES["keras_file"](path=path)
    with pytest.raises(UserError, match=r"The Keras model has another input size: 32\. Expected: 16\."):
        BACKBONES["keras_file"](path=saved(functional(), tmp_path), size=32)


def test_a_file_with_code_is_refused(tmp_path):
    """A Lambda layer contains code; the file is not loaded, and the code does not run."""
    mark = str(tmp_path / "ran")
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x, mark=mark: __import__("os").mkdir(mark) or x)(inputs))
    Path(mark).rmdir()
    for name in ("own.keras", "own.h5"):
        with pytest.raises(UserError, match=r"The Keras file cannot be read: .*Lambda"):
            BACKBONES["keras_file"](path=saved(model, tmp_path, name))
    assert not Path(mark).exists()


def pair(shape, *outputs):
    inputs = keras.Input(shape)
    return keras.Model(inputs, [layer(inputs) for layer in outputs])


def two_inputs():
    inputs = [keras.Input((16, 16, 3)) for _ in range(2)]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (functional, {"layer": "relu9"}, "The Keras model has no such layer: relu9. Expected: conv0, norm0, relu0,"),
        (functional, {"layer": "relu9"}, "Did you mean relu2?"),
        (
            functional,
            {"mean": (1.0, 2.0)},
            "Option mean of keras_file() does not fit the channels of the model: (1.0, 2.0).",
        ),
        (
            functional,
            {"std": (0.0,)},
            "Option std of keras_file() is out of range: (0.0, 0.0, 0.0). Expected: numbers above 0.",
        ),
        (two_inputs, {}, "The Keras model does not take one square image: [(None, 16, 16, 3), (None, 16, 16, 3)]."),
        (lambda: pair((16, 20, 3), keras.layers.Flatten()), {}, ": [(None, 16, 20, 3)]. Expected: one input"),
        (lambda: pair((16, 16, 4), keras.layers.Flatten()), {}, ": [(None, 16, 16, 4)]."),
        (lambda: pair((16,), keras.layers.Dense(2)), {}, ": [(None, 16)]."),
        (
            lambda: pair((16, 16, 3), keras.layers.Flatten(name="a"), keras.layers.Flatten(name="b")),
            {},
            "The Keras model has several outputs: a, b. Select one with the option layer.",
        ),
        (
            lambda: pair((16, 16, 3), keras.layers.Reshape((16, 48), name="rows")),
            {},
            "The output of layer rows is not a feature map or vector: (None, 16, 48). Expected: (batch, height,",
        ),
    ],
)
def test_unsuitable_models_are_refused(make, options, message, tmp_path):
    """The error names the value and the valid values."""
    with pytest.raises(UserError) as error:
        BACKBONES["keras_file"](path=saved(make(), tmp_path), **options)
    assert message in str(error.value)


def test_files_without_a_model_are_refused(tmp_path):
    """Such as missing files, text, truncated files, weights and folders."""
    content = Path(saved(functional(), tmp_path)).read_bytes()
    contents = {
        "text.keras": b"text",
        "half.keras": content[: len(content) // 2],
        "empty.keras": b"",
        "odd.txt": content,
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    functional().save_weights(tmp_path / "own.weights.h5")
    for name in (*contents, "own.weights.h5", "missing.keras", "."):
        with pytest.raises(UserError, match="The Keras file cannot be read: ") as error:
            BACKBONES["keras_file"](path=str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_layer_names_do_not_clash_with_a_head(tmp_path):
    """Layers of the file have a prefix: a head is named `dense` too."""
    path = saved(functional(), tmp_path)
    code = f"""
import keras
from tfx_finetune.types.components import BACKBONES
backbone = BACKBONES["keras_file"](path={path!r})
x = keras.layers.Dropout(0.1)(backbone.features.pooled)
assert keras.Model(backbone.inputs, keras.layers.Dense(2)(x)).layers[-1].name == "dense"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("max_weights", [0, 10**9])
def test_predict_fn_equals_the_model(max_weights, monkeypatch):
    """Weights are constants of the graph or variables; constants ignore later changes of the model."""
    monkeypatch.setattr("tfx_finetune.ops.functional._MAX_CONSTANT_WEIGHTS", max_weights)
    plain = functional()
    rng = np.random.default_rng(0)
    plain.set_weights([rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in plain.get_weights()])
    image = keras.Input((16, 16, 3), name="image", dtype="uint8")
    model = keras.Model({"image": image}, {"kind/scores": plain(keras.ops.cast(image, "float32"))})
    expected = model({"image": DATA}, training=False)["kind/scores"].numpy()
    predict = make_predict_fn(model)
    if max_weights:
        model.set_weights([0 * weight for weight in model.get_weights()])
    for part in (slice(0, 2), slice(2, 3)):
        np.testing.assert_allclose(predict({"image": DATA[part]})["kind/scores"], expected[part], atol=1e-6)
