"""A person's own model: any functional or sequential one of a picture, and nothing that runs code."""

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
def test_gives_what_the_file_gives(make, name, tmp_path):
    """Of either kind and in either of Keras's formats; the card says which file it was."""
    model = make()
    backbone = BACKBONES["keras_file"](path=saved(model, tmp_path, name))
    assert np.allclose(run(backbone), model(DATA.astype(np.float32)), atol=1e-5)
    assert backbone.card.origin == str(tmp_path / name)
    assert backbone.card.sha256 == files.sha256(tmp_path / name)
    assert (backbone.card.size, backbone.card.channels) == (16, 3)


def test_a_feature_map_by_its_layer(tmp_path):
    """`layer=` takes off the head; a map is pooled by its mean, and its strides make a pyramid."""
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
def test_normalization_in_front(channels, tmp_path):
    """One value for all channels, or one for each."""
    model, data = functional(channels=channels), DATA[..., :channels]
    path = saved(model, tmp_path)
    for mean, std in (((127.5,), (64.0,)), ((10.0, 20.0, 30.0)[:channels], (1.0, 2.0, 3.0)[:channels])):
        backbone = BACKBONES["keras_file"](path=path, mean=mean, std=std)
        assert np.allclose(run(backbone, data), model((data - np.array(mean)) / np.array(std)), atol=1e-4)
        assert len(backbone.card.mean) == len(backbone.card.std) == channels


def test_a_model_inside_the_model(tmp_path):
    """Transfer learning as in Keras's own guide leaves such a file; its inner layers can be chosen and cut."""
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


def test_a_size_left_open(tmp_path):
    """A convolutional model without a size of its own takes any, which the person says."""
    path = saved(keras.Model(inputs := keras.Input((None, None, 3)), body(inputs)), tmp_path)
    backbone = BACKBONES["keras_file"](path=path, size=16)
    maps = keras.models.load_model(path)(DATA.astype(np.float32)).numpy()
    assert np.allclose(run(backbone), maps.mean((1, 2)), atol=1e-5)
    assert backbone.card.size == 16
    with pytest.raises(UserError, match="the model leaves the size of its input open; give size=, in pixels"):
        BACKBONES["keras_file"](path=path)
    with pytest.raises(UserError, match="has another size; received: 32; allowed: 16"):
        BACKBONES["keras_file"](path=saved(functional(), tmp_path), size=32)


def test_a_file_with_code_is_refused(tmp_path):
    """A Lambda layer holds a program; it is neither loaded nor run."""
    mark = str(tmp_path / "ran")
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x, mark=mark: __import__("os").mkdir(mark) or x)(inputs))
    Path(mark).rmdir()
    for name in ("own.keras", "own.h5"):
        with pytest.raises(UserError, match=r"not a readable Keras file; received: .*Lambda"):
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
        (functional, {"layer": "relu9"}, "the model has no such layer; received: relu9; allowed: conv0, norm0, relu0,"),
        (functional, {"layer": "relu9"}, "did you mean relu2?"),
        (functional, {"mean": (1.0, 2.0)}, "mean of keras_file does not fit the model's input; received: (1.0, 2.0);"),
        (functional, {"std": (0.0,)}, "std of keras_file is out of range; received: (0.0, 0.0, 0.0); allowed: above 0"),
        (two_inputs, {}, "not a model of one square picture; received: [(None, 16, 16, 3), (None, 16, 16, 3)]"),
        (lambda: pair((16, 20, 3), keras.layers.Flatten()), {}, "received: [(None, 16, 20, 3)]; allowed: one input"),
        (lambda: pair((16, 16, 4), keras.layers.Flatten()), {}, "received: [(None, 16, 16, 4)]"),
        (lambda: pair((16,), keras.layers.Dense(2)), {}, "received: [(None, 16)]"),
        (
            lambda: pair((16, 16, 3), keras.layers.Flatten(name="a"), keras.layers.Flatten(name="b")),
            {},
            "the model has several outputs; received: ['a', 'b']; choose one by layer=",
        ),
        (
            lambda: pair((16, 16, 3), keras.layers.Reshape((16, 48), name="rows")),
            {},
            "the output of rows is not features of a picture; received: (None, 16, 48); allowed: (batch, height,",
        ),
    ],
)
def test_models_that_are_no_backbone(make, options, message, tmp_path):
    """What was found, and what is allowed."""
    with pytest.raises(UserError) as error:
        BACKBONES["keras_file"](path=saved(make(), tmp_path), **options)
    assert message in str(error.value)


def test_files_that_are_no_model(tmp_path):
    """Missing, text, half a file, weights alone, a folder."""
    whole = Path(saved(functional(), tmp_path)).read_bytes()
    contents = {"text.keras": b"text", "half.keras": whole[: len(whole) // 2], "empty.keras": b"", "odd.txt": whole}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    functional().save_weights(tmp_path / "own.weights.h5")
    for name in (*contents, "own.weights.h5", "missing.keras", "."):
        with pytest.raises(UserError, match="not a readable Keras file; received: ") as error:
            BACKBONES["keras_file"](path=str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_names_do_not_clash_with_a_head(tmp_path):
    """A head is called `dense` too when the file was written by another process."""
    path = saved(functional(), tmp_path)
    code = f"""
import keras
from tfx_finetune.types.components import BACKBONES
backbone = BACKBONES["keras_file"](path={path!r})
x = keras.layers.Dropout(0.1)(backbone.features.pooled)
assert keras.Model(backbone.inputs, keras.layers.Dense(2)(x)).layers[-1].name == "dense"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("most", [0, 10**9])
def test_a_predictor_answers_as_its_model_did(most, monkeypatch):
    """Weights as constants of the graph or as variables; what becomes of the model later is not asked for."""
    monkeypatch.setattr("tfx_finetune.ops.functional._MOST_CONSTANT", most)
    plain = functional()
    rng = np.random.default_rng(0)
    plain.set_weights([rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in plain.get_weights()])
    image = keras.Input((16, 16, 3), name="image", dtype="uint8")
    model = keras.Model({"image": image}, {"kind/scores": plain(keras.ops.cast(image, "float32"))})
    expected = model({"image": DATA}, training=False)["kind/scores"].numpy()
    predict = make_predict_fn(model)
    if most:
        model.set_weights([0 * weight for weight in model.get_weights()])
    for part in (slice(0, 2), slice(2, 3)):
        np.testing.assert_allclose(predict({"image": DATA[part]})["kind/scores"], expected[part], atol=1e-6)
