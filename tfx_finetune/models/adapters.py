"""Parameter-efficient adapters: LoRA, bottleneck adapters, BitFit and normalization-only training.

`--frozen.adapter` and `--finetune.adapter` select an adapter for the layer groups that the phase unfreezes. The
adapter's weights are trained in place of the weights of these groups.
"""

from collections.abc import Sequence
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Adapter

_BOTTLENECK_PREFIX = "adapter"


@ADAPTERS.register
def bitfit() -> Adapter:
    """Train the biases alone (BitFit, Ben Zaken et al., arXiv 2106.10199).

    The offsets of normalization layers count as biases: they replace those of convolutions.
    """
    return Adapter(lambda layers: set_trainable_by_name(layers, ("bias", "beta")), _merge_nothing)


@ADAPTERS.register
def norms() -> Adapter:
    """Train the scales and offsets of normalization layers alone (Frankle et al., arXiv 2003.00152).

    The moving mean and variance stay as they are.
    """
    return Adapter(lambda layers: set_trainable_by_name(layers, ("gamma", "beta")), _merge_nothing)


@ADAPTERS.register
def bottleneck(dim: int = 64) -> Adapter:
    """Insert x + up(relu(down(x))) behind each layer group (Houlsby et al., arXiv 1902.00751).

    `down` and `up` are dense layers, on feature maps 1 x 1 convolutions. The adapter is the identity before training.
    It is not linear, so it stays in the final model and adds about 2 * dim * channels weights per group.

    Args:
        dim: int >= 1. Size of the bottleneck. Default 64.

    Raises:
        UserError: If `dim` is below 1.
    """
    if dim < 1:
        raise UserError("Options of bottleneck() are out of range", got=f"dim={dim}", expected="dim >= 1")
    return Adapter(_attach_bottleneck, _merge_nothing, lambda group, x: _insert_bottleneck(group, x, dim))


@ADAPTERS.register
def lora(rank: int = 4, alpha: float = 0.0) -> Adapter:
    """Train a low-rank update of each kernel (LoRA, Hu et al., arXiv 2106.09685).

    The update applies to dense, convolution, attention and embedding layers; depthwise convolutions stay frozen, as
    their kernels are small. It is added to the kernels at the end of the phase: the final model has the original size
    and speed.

    Args:
        rank: int >= 1. Rank of the update. Default 4.
        alpha: float >= 0. The update is multiplied by alpha / rank; 0 selects alpha = rank. Default 0.

    Raises:
        UserError: If `rank` or `alpha` is out of range.
    """
    if rank < 1 or alpha < 0:
        got = f"rank={rank}, alpha={alpha}"
        raise UserError("Options of lora() are out of range", got=got, expected="rank >= 1, alpha >= 0")
    return Adapter(lambda layers: _attach_lora(layers, rank, alpha), _merge_lora)


def set_trainable_by_name(layers: Sequence[keras.Layer], names: Sequence[str]) -> None:
    """Make the weights with these names trainable and all other weights not trainable.

    A frozen BatchNormalization layer still normalizes with its moving statistics.
    """
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = weight.name in names


def _merge_nothing(layers: Sequence[keras.Layer]) -> None:
    """Do nothing: the adapter has no weights to merge."""


def _insert_bottleneck(group: str, x: keras.KerasTensor, dim: int) -> keras.KerasTensor:
    """Append a bottleneck adapter to the output of a layer group."""
    name = f"{_BOTTLENECK_PREFIX}_{group}"

    def dense(units: int, suffix: str, **options: Any) -> keras.Layer:
        if len(x.shape) == 4:
            return keras.layers.Conv2D(units, 1, name=f"{name}_{suffix}", **options)
        # Padding tokens are zeros between blocks and have to stay zeros, so there is no bias on sequences.
        return keras.layers.Dense(units, use_bias=len(x.shape) == 2, name=f"{name}_{suffix}", **options)

    hidden = dense(dim, "down", activation="relu", kernel_initializer="he_normal")(x)
    update = dense(x.shape[-1], "up", kernel_initializer="zeros")(hidden)
    return keras.layers.Add(name=f"{name}_add")([x, update])


def _attach_bottleneck(layers: Sequence[keras.Layer]) -> None:
    """Make the weights of bottleneck adapters trainable and freeze all others."""
    for layer in layers:
        for weight in layer.weights:
            weight.trainable = layer.name.startswith(_BOTTLENECK_PREFIX)


def _attach_lora(layers: Sequence[keras.Layer], rank: int, alpha: float) -> None:
    """Freeze all weights and enable Keras's LoRA in each sublayer that supports it."""
    for sublayer in _list_sublayers(layers):
        for weight in sublayer.weights:
            weight.trainable = False
        if hasattr(sublayer, "enable_lora"):
            sublayer.enable_lora(rank, lora_alpha=alpha or None)


def _merge_lora(layers: Sequence[keras.Layer]) -> None:
    """Add the low-rank updates to the kernels and remove their weights."""
    for sublayer in _list_sublayers(layers):
        if not getattr(sublayer, "lora_enabled", False):
            continue
        kernel_name = "embeddings" if isinstance(sublayer, keras.layers.Embedding) else "kernel"
        merged = keras.ops.convert_to_numpy(getattr(sublayer, kernel_name))
        getattr(sublayer, f"_{kernel_name}").assign(merged)
        sublayer.lora_enabled = False
        for name in (f"lora_{kernel_name}_a", f"lora_{kernel_name}_b"):
            # Keras's `del` would run a garbage collection of half a second for each weight.
            sublayer._untrack_variable(vars(sublayer).pop(name))


def _list_sublayers(layers: Sequence[keras.Layer]) -> list[Any]:
    """Return layers and their innermost sublayers that have weights, such as the projections of an attention layer."""
    return [
        sublayer
        for layer in layers
        for sublayer in layer._flatten_layers()
        if sublayer.weights and (sublayer is layer or not sublayer._layers)
    ]
