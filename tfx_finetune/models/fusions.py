"""Fusions of several towers: concatenation, FiLM, gating, cross-attention, late fusion and a shared embedding space.

A fusion takes the features of each tower and the modality mask (batch, towers). A missing modality has no effect on
the fused features. `normalize_towers`, `apply_masked_softmax` and `compute_weighted_sum` are the building blocks of a
new fusion.
"""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput

# Gate logit of the initial tower, whose gate weight is then above 0.98 of two towers.
_INITIAL_GATE_BIAS = 4.0
# Logit offset of a missing modality: a gate weight of e^-12, and a range of logits that int8 can represent.
_MISSING_LOGIT = -12.0


@FUSIONS.register
def concat() -> Fusion:
    """Concatenate the pooled features of all towers; those of a missing modality are zeros."""

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        parts = list(normalize_towers(towers, modality_mask).values())
        return FusionOutput((Features(keras.layers.Concatenate(name="fused")(parts)),))

    return Fusion(fuse)


@FUSIONS.register
def cross_attend(dim: int = 128, attention_heads: int = 4) -> Fusion:
    """Attend from each tower's pooled features to the tokens of all towers, then average over the towers.

    Tokens are words, time steps or locations of an image. Cross-attention: Vaswani et al., arXiv 1706.03762; of two
    modalities: Lu et al., ViLBERT, arXiv 1908.02265.

    Args:
        dim: int, a multiple of `attention_heads`. Size of queries, keys, values and fused features. Default 128.
        attention_heads: int >= 1. Number of attention heads. Default 4.

    Raises:
        UserError: If `dim` is not a multiple of `attention_heads`.
    """
    if dim % attention_heads:
        got = f"dim={dim}, attention_heads={attention_heads}"
        raise UserError("Options of cross_attend() are inconsistent", got=got, expected="dim % attention_heads == 0")

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        queries = [
            keras.layers.Dense(dim, name=f"{tower}_query")(pooled)
            for tower, pooled in normalize_towers(towers, modality_mask).items()
        ]
        tokens, masks = [], []
        for index, (tower, features) in enumerate(towers.items()):
            scaled = keras.layers.LayerNormalization(name=f"{tower}_token_scale")(features.tokens)
            tokens.append(keras.layers.Dense(dim, name=f"{tower}_token_projection")(scaled))
            mask = keras.ops.ones_like(scaled[..., 0]) if features.mask is None else features.mask
            masks.append(keras.ops.cast(mask, "float32") * select_tower_column(modality_mask, index))
        all_tokens = keras.layers.Concatenate(axis=1, name="tokens")(tokens)
        all_masks = keras.layers.Concatenate(axis=1, name="token_mask")(masks)
        attention = keras.layers.MultiHeadAttention(attention_heads, dim // attention_heads, name="attend")
        stacked = keras.ops.stack(queries, axis=1)
        attended = attention(stacked, all_tokens, attention_mask=all_masks[:, None, :] > 0.5)
        hidden = keras.layers.LayerNormalization(name="met")(stacked + attended)
        weights = apply_masked_softmax(modality_mask)
        fused = compute_weighted_sum([hidden[:, index] for index in range(len(towers))], weights)
        return FusionOutput((Features(fused),), weights)

    return Fusion(fuse, needs_tokens=True)


@FUSIONS.register
def film(main: str = "") -> Fusion:
    """Scale and shift the features of one tower by the features of the others (FiLM, Perez et al., arXiv 1709.07871).

    Scale and shift are initialized to the identity: training starts from the main tower alone.

    Args:
        main: Name of the tower whose features are modulated. Default: the first tower.
    """

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        parts = normalize_towers(towers, modality_mask)
        x = parts.pop(resolve_tower(main, towers, "main"))
        others = list(parts.values())
        condition = keras.layers.Concatenate(name="side_by_side")(others) if len(others) > 1 else others[0]
        scale, shift = (
            keras.layers.Dense(x.shape[-1], kernel_initializer="zeros", name=name)(condition)
            for name in ("scale", "shift")
        )
        return FusionOutput((Features(x * (1 + scale) + shift),))

    return Fusion(fuse)


@FUSIONS.register
def gated(dim: int = 256, initial_tower: str = "") -> Fusion:
    """Average the towers, projected to one space, with weights that a gate computes for each sample.

    Gated multimodal units (Arevalo et al., arXiv 1702.01992), with a softmax over the towers. The report shows the
    gate weights.

    Args:
        dim: int >= 1. Size of the space. Default 256.
        initial_tower: Name of the tower that has almost all weight before training, such as the best single tower.
            Default: equal weights.
    """

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        parts = normalize_towers(towers, modality_mask)
        hidden = [
            keras.layers.Dense(dim, activation="relu", name=f"{tower}_projection")(part)
            for tower, part in parts.items()
        ]
        initial = resolve_tower(initial_tower, towers, "initial_tower") if initial_tower else ""
        bias = np.array([_INITIAL_GATE_BIAS * (tower == initial) for tower in parts])
        gate = keras.layers.Dense(
            len(parts), kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(bias), name="gate"
        )
        logits = gate(keras.layers.Concatenate(name="side_by_side")(list(parts.values())))
        weights = apply_masked_softmax(modality_mask, logits)
        return FusionOutput((Features(compute_weighted_sum(hidden, weights)),), weights)

    return Fusion(fuse)


@FUSIONS.register
def late() -> Fusion:
    """Give each tower a head of its own and average the logits over the modalities that are present."""

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        parts = normalize_towers(towers, modality_mask).values()
        return FusionOutput(tuple(map(Features, parts)), apply_masked_softmax(modality_mask))

    return Fusion(fuse)


@FUSIONS.register
def shared(dim: int = 256, contrastive_weight: float = 0.1, temperature: float = 0.1) -> Fusion:
    """Average L2-normalized projections of the towers and train them with a contrastive loss.

    The head has the same weights for every tower. The loss pulls the projections of one sample together (CLIP, Radford
    et al., arXiv 2103.00020).

    Args:
        dim: int >= 1. Size of the embedding space. Default 256.
        contrastive_weight: float >= 0. Weight of the contrastive loss; 0 for no loss. Default 0.1.
        temperature: float > 0. Divides the cosine similarities of the loss. Default 0.1.

    Raises:
        UserError: If a weight or temperature is out of range.
    """
    if not (contrastive_weight >= 0 and temperature > 0):
        got = f"contrastive_weight={contrastive_weight}, temperature={temperature}"
        expected = "contrastive_weight >= 0, temperature > 0"
        raise UserError("Options of shared() are out of range", got=got, expected=expected)

    def fuse(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> FusionOutput:
        embeddings = [
            _l2_normalize(keras.layers.Dense(dim, use_bias=False, name=f"{tower}_projection")(part))
            for tower, part in normalize_towers(towers, modality_mask).items()
        ]
        weights = apply_masked_softmax(modality_mask)
        projections = keras.ops.stack(embeddings, axis=1) if contrastive_weight else None
        # Scaled to a root mean square of about 1, at which a dense layer trains at the usual learning rates.
        fused = Features(compute_weighted_sum(embeddings, weights) * math.sqrt(dim))
        return FusionOutput((fused,), weights, projections)

    return Fusion(fuse, contrastive_weight=contrastive_weight, temperature=temperature)


def normalize_towers(towers: Mapping[str, Features], modality_mask: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Apply layer normalization to the pooled features of each tower and zero those of missing modalities.

    Args:
        towers: Features by tower.
        modality_mask: Tensor (batch, towers) of 0 and 1.

    Returns:
        Tensors (batch, dim) by tower; `dim` may differ between towers.
    """
    return {
        tower: keras.layers.LayerNormalization(name=f"{tower}_scale")(features.pooled)
        * select_tower_column(modality_mask, index)
        for index, (tower, features) in enumerate(towers.items())
    }


def select_tower_column(values: keras.KerasTensor, index: int) -> keras.KerasTensor:
    """Return column `index` of values (batch, towers), with shape (batch, 1)."""
    return values[:, index : index + 1]


def apply_masked_softmax(
    modality_mask: keras.KerasTensor, logits: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """Compute a softmax over the towers whose modality is present.

    Args:
        modality_mask: Tensor (batch, towers) of 0 and 1.
        logits: Tensor (batch, towers), or None for equal weights.

    Returns:
        Gate weights (batch, towers), float32, with sum 1.
    """
    offsets = _MISSING_LOGIT * (1 - modality_mask)
    softmax = keras.layers.Softmax(name="gate_weights", dtype="float32")
    return softmax(offsets if logits is None else logits + offsets)


def compute_weighted_sum(parts: Sequence[keras.KerasTensor], weights: keras.KerasTensor) -> keras.KerasTensor:
    """Add tensors (batch, dim), one per tower, weighted by the columns of `weights` (batch, towers)."""
    weighted = [part * select_tower_column(weights, index) for index, part in enumerate(parts)]
    return keras.layers.Add(name="fused")(weighted)


def resolve_tower(name: str, towers: Mapping[str, Features], option: str) -> str:
    """Return the tower name that a fusion option selects, or the first tower if the option is empty.

    Args:
        name: Value of the option.
        towers: Features by tower.
        option: Name of the option, for the error message.

    Raises:
        UserError: If no tower has this name.
    """
    if name and name not in towers:
        raise UserError(f"Option {option} of the fusion names an unknown tower", got=name, expected=list(towers))
    return name or next(iter(towers))


def _l2_normalize(x: keras.KerasTensor) -> keras.KerasTensor:
    """Scale vectors to length 1; a zero vector stays zero, unlike in Keras's layer after conversion to TFLite."""
    return x * keras.ops.rsqrt(keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True) + 1e-6)
