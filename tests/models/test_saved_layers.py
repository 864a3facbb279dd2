"""Names of custom layers in Keras files: they stay the same when a layer moves or gets another Python name."""

import json
import zipfile

import keras
import numpy as np
import pytest

from tfx_finetune.core.spec import Spec
from tfx_finetune.models import necks
from tfx_finetune.models.backbones import bag_of_embeddings, transformer, use_multilingual
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.tasks import zero_shot
from tfx_finetune.types.components import NECKS

LAYERS = {
    "Attention": transformer.Attention,
    "Cosines": zero_shot.Cosines,
    "Fusion": necks.FastNormalizedFusion,
    "IsToken": transformer.IsToken,
    "Mean": bag_of_embeddings.Mean,
    "MeanOfPresent": transformer.MeanOfPresent,
    "NGrams": bag_of_embeddings.NGrams,
    "Positions": transformer.Positions,
    "Present": transformer.Present,
    "RootMean": use_multilingual.RootMean,
}


@pytest.mark.parametrize(("name", "layer"), LAYERS.items(), ids=LAYERS)
def test_names_in_keras_files(name, layer):
    """Keras finds a layer by its registered name, and its weights by its class name."""
    assert keras.saving.get_registered_object(f"tfx_finetune>{name}") is layer
    assert keras.saving.get_registered_name(layer) == f"tfx_finetune>{name}"
    assert layer.__name__ == name


def test_the_gelu_approximation_in_keras_files():
    """The activation of transformer blocks has a registered name too."""
    assert keras.saving.get_registered_object("tfx_finetune>gelu_by_tanh") is transformer.gelu_by_tanh


def replace_modules(value):
    """Replace the module of custom layers in a Keras configuration by one that does not exist."""
    if isinstance(value, dict):
        is_custom = str(value.get("registered_name", "")).startswith("tfx_finetune>")
        changed = {key: replace_modules(item) for key, item in value.items()}
        return changed | {"module": "tfx_finetune.necks.bifpn"} if is_custom else changed
    return [replace_modules(item) for item in value] if isinstance(value, list) else value


def test_a_file_of_a_moved_layer_loads(tmp_path):
    """The module in the file does not have to exist; outputs are equal."""
    keras.utils.set_random_seed(0)
    pyramid = {level: keras.Input((side, side, 4), name=level) for level, side in (("P3", 8), ("P4", 4))}
    model = keras.Model(pyramid, NECKS.build(Spec("bifpn", (), {"dim": 8}), pyramid))
    for layer in model.layers:
        if isinstance(layer, necks.FastNormalizedFusion):
            layer.set_weights([np.linspace(0.2, 1.5, *layer.weights[0].shape)])
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    changed = replace_modules(config)
    assert changed != config
    with zipfile.ZipFile(tmp_path / "moved.keras", "w") as archive:
        for name, content in (contents | {"config.json": json.dumps(changed).encode()}).items():
            archive.writestr(name, content)
    rng = np.random.default_rng(0)
    data = {level: rng.normal(size=(2, *x.shape[1:])).astype(np.float32) for level, x in pyramid.items()}
    expected = model(data, training=False)
    for level, output in load_keras_model(tmp_path / "moved.keras")(data, training=False).items():
        np.testing.assert_array_equal(output, expected[level])
