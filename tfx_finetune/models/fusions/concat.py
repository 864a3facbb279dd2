"""Features side by side."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.fusions.towers import normalized
from tfx_finetune.types.components import FUSIONS, Features, Fused, Fusion


@FUSIONS.register
def concat() -> Fusion:
    """Features of all towers side by side, zeros where one sees nothing: the head weighs each of them."""

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> Fused:
        parts = list(normalized(towers, presence).values())
        return Fused((Features(keras.layers.Concatenate(name="fused")(parts)),))

    return Fusion(fuse)
