"""Towers that look at one another's tokens."""

from collections.abc import Mapping

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.fusions.towers import (
    apply_masked_softmax,
    compute_weighted_sum,
    normalize_towers,
    select_tower_column,
)
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput


@FUSIONS.register
def cross_attend(dim: int = 128, attention_heads: int = 4) -> Fusion:
    """Each tower's features look for what belongs to them among all towers' tokens: places of a picture, words, moments
    (cross-attention, Vaswani et al., arXiv 1706.03762; for two modalities, Lu et al., ViLBERT, arXiv 1908.02265).

    Args:
        dim: Of the space in which they meet, a multiple of the heads.
        attention_heads: Of the attention.
    """
    if dim % attention_heads:
        received = f"dim={dim}, attention_heads={attention_heads}"
        raise UserError("dim is no multiple of attention_heads", got=received)

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        queries = [
            keras.layers.Dense(dim, name=f"{tower}_query")(part)
            for tower, part in normalize_towers(towers, presence).items()
        ]
        tokens, masks = [], []
        for position, (tower, features) in enumerate(towers.items()):
            given = keras.layers.LayerNormalization(name=f"{tower}_token_scale")(features.tokens)
            tokens.append(keras.layers.Dense(dim, name=f"{tower}_token_projection")(given))
            mask = keras.ops.ones_like(given[..., 0]) if features.mask is None else features.mask
            masks.append(keras.ops.cast(mask, "float32") * select_tower_column(presence, position))
        everything = keras.layers.Concatenate(axis=1, name="tokens")(tokens)
        mask = keras.layers.Concatenate(axis=1, name="token_mask")(masks)
        attend = keras.layers.MultiHeadAttention(attention_heads, dim // attention_heads, name="attend")
        asked = keras.ops.stack(queries, axis=1)
        found = attend(asked, everything, attention_mask=mask[:, None, :] > 0.5)
        hidden = keras.layers.LayerNormalization(name="met")(asked + found)
        weights = apply_masked_softmax(presence)
        return FusionOutput(
            (Features(compute_weighted_sum([hidden[:, at] for at in range(len(towers))], weights)),), weights
        )

    return Fusion(fuse, needs_tokens=True)
