"""Features side by side."""

from collections.abc import Mapping

import keras

from tfx_finetune.contracts import FUSIONS, Features, Fused, Fusion
from tfx_finetune.fusions.towers import normalized


@FUSIONS.register
def concat() -> Fusion:
    """Features of all towers side by side, zeros where one sees nothing: the head weighs each of them."""

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> Fused:
        parts = list(normalized(towers, presence).values())
        return Fused((Features(keras.layers.Concatenate(name="fused")(parts)),))

    return Fusion(fuse)
