"""Each tower for itself, their answers averaged."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.fusions.towers import apply_masked_softmax, normalize_towers
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput


@FUSIONS.register
def late() -> Fusion:
    """A head a tower; the logits of those that have something to see are averaged."""

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        return FusionOutput(
            tuple(Features(part) for part in normalize_towers(towers, presence).values()),
            apply_masked_softmax(presence),
        )

    return Fusion(fuse)
