"""Each tower for itself, their answers averaged."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.fusions.towers import normalized, shares
from tfx_finetune.types.components import FUSIONS, Features, Fused, Fusion


@FUSIONS.register
def late() -> Fusion:
    """A head a tower; the logits of those that have something to see are averaged."""

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> Fused:
        return Fused(tuple(Features(part) for part in normalized(towers, presence).values()), shares(presence))

    return Fusion(fuse)
