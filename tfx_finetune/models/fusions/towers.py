"""What fusions share: features of one scale, nothing of a tower that has nothing to see, equal shares of the others."""

from collections.abc import Mapping

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Features

# Added to the logit of a tower that has nothing to see: its share is then a hundred thousandth, and the range of the
# logits stays one that eight bits can hold.
_ABSENT = -12.0


def normalized(towers: Mapping[str, Features], presence: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Pooled features (batch, dim), of mean 0 and variance 1 as towers differ in scale; zeros of what is not there."""
    return {
        tower: keras.layers.LayerNormalization(name=f"{tower}_scale")(features.pooled) * seen(presence, position)
        for position, (tower, features) in enumerate(towers.items())
    }


def seen(presence: keras.KerasTensor, position: int) -> keras.KerasTensor:
    """Whether one tower has something to see, (batch, 1)."""
    return presence[:, position : position + 1]


def shares(presence: keras.KerasTensor, logits: keras.KerasTensor | None = None) -> keras.KerasTensor:
    """Softmax over the towers that have something to see, (batch, towers); equal shares without logits."""
    absent = _ABSENT * (1 - presence)
    return keras.layers.Softmax(name="shares", dtype="float32")(absent if logits is None else logits + absent)


def mean(parts: list[keras.KerasTensor], weights: keras.KerasTensor) -> keras.KerasTensor:
    """The weighted sum of one part a tower, (batch, dim)."""
    return keras.layers.Add(name="fused")([part * seen(weights, at) for at, part in enumerate(parts)])


def one_of(name: str, towers: Mapping[str, Features], option: str) -> str:
    """The tower of this name; the first one where it is empty.

    Raises:
        UserError: There is no such tower.
    """
    if name and name not in towers:
        raise UserError(f"{option} of the fusion is no tower", received=name, allowed=list(towers))
    return name or next(iter(towers))
