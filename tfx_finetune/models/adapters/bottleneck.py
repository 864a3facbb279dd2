"""Bottleneck adapters: a narrow detour behind every group (Houlsby et al., arXiv 1902.00751)."""

from collections.abc import Sequence
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Adapter

_PREFIX = "adapter"


@ADAPTERS.register
def bottleneck(dim: int = 64) -> Adapter:
    """Trains x + up(relu(down(x))) behind each group, with dense layers, which on maps are 1 x 1 convolutions.

    It begins as the identity. It is no linear map, so it stays in the finished model: 2 dim channels weights a group.

    Args:
        dim: Numbers between down and up, 1 or more.
    """
    if dim < 1:
        raise UserError("bottleneck is out of range", got=f"dim={dim}", expected="1 or more")
    return Adapter(_attach, lambda layers: None, lambda name, x: _insert(name, x, dim))


def _insert(name: str, x: keras.KerasTensor, dim: int) -> keras.KerasTensor:
    channels = x.shape[-1]
    stem = f"{_PREFIX}_{name}"

    def dense(units: int, part: str, **options: Any) -> keras.Layer:
        if len(x.shape) == 4:
            return keras.layers.Conv2D(units, 1, name=f"{stem}_{part}", **options)
        # Tokens that are absent are zeros between blocks, and have to stay so.
        return keras.layers.Dense(units, use_bias=len(x.shape) == 2, name=f"{stem}_{part}", **options)

    narrow = dense(dim, "down", activation="relu", kernel_initializer="he_normal")(x)
    return keras.layers.Add(name=f"{stem}_add")([x, dense(channels, "up", kernel_initializer="zeros")(narrow)])


def _attach(layers: Sequence[keras.Layer]) -> None:
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = layer.name.startswith(_PREFIX)
