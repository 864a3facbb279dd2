"""Features side by side."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.fusions.towers import normalize_towers
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput


@FUSIONS.register
def concat() -> Fusion:
    """Features of all towers side by side, zeros where one sees nothing: the head weighs each of them."""

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        parts = list(normalize_towers(towers, presence).values())
        return FusionOutput((Features(keras.layers.Concatenate(name="fused")(parts)),))

    return Fusion(fuse)
