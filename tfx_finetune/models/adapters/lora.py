"""LoRA: the change of a kernel as a product of two thin matrices (Hu et al., arXiv 2106.09685)."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import ADAPTERS
from tfx_finetune.types.training import Adapter


@ADAPTERS.register
def lora(rank: int = 4, alpha: float = 0.0) -> Adapter:
    """Trains a low-rank change of the kernels of dense, convolution, attention and embedding layers.

    Depthwise convolutions, whose kernels are thin already, stay as they are. The change is added to the kernels when
    the phase ends, so that the finished model is as large and as fast as without.

    Args:
        rank: Of the change, 1 or more.
        alpha: The change is scaled by alpha / rank; 0 stands for the rank.
    """
    if rank < 1 or alpha < 0:
        received = f"rank={rank}, alpha={alpha}"
        raise UserError("lora is out of range", got=received, expected="a rank of 1 or more, alpha 0 or more")
    return Adapter(lambda layers: _attach(layers, rank, alpha), _merge)


def _attach(layers: Sequence[keras.Layer], rank: int, alpha: float) -> None:
    for layer in layers:
        for part in _list_sublayers(layer):
            for weight in part.weights:
                weight.trainable = False
            if hasattr(part, "enable_lora"):
                part.enable_lora(rank, lora_alpha=alpha or None)


def _merge(layers: Sequence[keras.Layer]) -> None:
    for layer in layers:
        for part in _list_sublayers(layer):
            if not getattr(part, "lora_enabled", False):
                continue
            stem = "embeddings" if isinstance(part, keras.layers.Embedding) else "kernel"
            merged = keras.ops.convert_to_numpy(getattr(part, stem))
            getattr(part, f"_{stem}").assign(merged)
            part.lora_enabled = False
            for name in (f"lora_{stem}_a", f"lora_{stem}_b"):
                # `del` would collect garbage in the whole process for each of them, half a second a time.
                part._untrack_variable(vars(part).pop(name))


def _list_sublayers(layer: keras.Layer) -> Iterable[Any]:
    """The layer and those inside it, such as the projections of an attention."""
    return [part for part in layer._flatten_layers() if part.weights and (part is layer or not part._layers)]
