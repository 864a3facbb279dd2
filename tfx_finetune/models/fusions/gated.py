"""A mean whose weights the samples themselves decide."""

from collections.abc import Mapping

import keras
import numpy as np

from tfx_finetune.models.fusions.towers import (
    apply_masked_softmax,
    compute_weighted_sum,
    normalize_towers,
    resolve_tower,
)
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput

# Logit by which the tower that is to begin is ahead: it then has nine tenths and more.
_INITIAL_GATE_BIAS = 4.0


@FUSIONS.register
def gated(dim: int = 256, initial_tower: str = "") -> Fusion:
    """A weighted mean of the towers in one space; a gate weighs them for each sample (Arevalo et al., Gated multimodal
    units, arXiv 1702.01992, with a softmax over the towers).

    The report shows the weights.

    Args:
        dim: Of the space.
        start: The tower that counts almost alone at first, as the best one should; by default they begin equal.
    """

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        parts = normalize_towers(towers, presence)
        project = {tower: keras.layers.Dense(dim, activation="relu", name=f"{tower}_projection") for tower in parts}
        hidden = [project[tower](part) for tower, part in parts.items()]
        first = resolve_tower(initial_tower, towers, "start") if initial_tower else ""
        bias = np.array([_INITIAL_GATE_BIAS * (tower == first) for tower in parts])
        gate = keras.layers.Dense(
            len(parts), kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(bias), name="gate"
        )
        weights = apply_masked_softmax(
            presence, gate(keras.layers.Concatenate(name="side_by_side")(list(parts.values())))
        )
        return FusionOutput((Features(compute_weighted_sum(hidden, weights)),), weights)

    return Fusion(fuse)
