"""What fusions share: features of one scale, nothing of a tower that has nothing to see, equal shares of the others."""

from collections.abc import Mapping

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Features

# Added to the logit of a tower that has nothing to see: its share is then a hundred thousandth, and the range of the
# logits stays one that eight bits can hold.
_ABSENT_LOGIT = -12.0


def normalize_towers(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Pooled features (batch, dim), of mean 0 and variance 1 as towers differ in scale; zeros of what is not there."""
    return {
        tower: keras.layers.LayerNormalization(name=f"{tower}_scale")(features.pooled)
        * select_tower_column(modality_mask, position)
        for position, (tower, features) in enumerate(towers.items())
    }


def select_tower_column(values: keras.KerasTensor, position: int) -> keras.KerasTensor:
    """Whether one tower has something to see, (batch, 1)."""
    return values[:, position : position + 1]


def apply_masked_softmax(
    modality_mask: keras.KerasTensor, logits: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """Softmax over the towers that have something to see, (batch, towers); equal shares without logits."""
    absent = _ABSENT_LOGIT * (1 - modality_mask)
    return keras.layers.Softmax(name="shares", dtype="float32")(absent if logits is None else logits + absent)


def compute_weighted_sum(parts: list[keras.KerasTensor], weights: keras.KerasTensor) -> keras.KerasTensor:
    """The weighted sum of one part a tower, (batch, dim)."""
    return keras.layers.Add(name="fused")([part * select_tower_column(weights, at) for at, part in enumerate(parts)])


def resolve_tower(name: str, towers: Mapping[str, Features], option: str) -> str:
    """The tower of this name; the first one where it is empty.

    Raises:
        UserError: There is no such tower.
    """
    if name and name not in towers:
        raise UserError(f"{option} of the fusion is no tower", got=name, expected=list(towers))
    return name or next(iter(towers))
