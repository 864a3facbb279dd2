"""One space and one head for all towers."""

import math
from collections.abc import Mapping

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.fusions.towers import apply_masked_softmax, compute_weighted_sum, normalize_towers
from tfx_finetune.types.components import FUSIONS, Features, Fusion, FusionOutput


@FUSIONS.register
def shared(dim: int = 256, contrastive_weight: float = 0.1, temperature: float = 0.1) -> Fusion:
    """Points of one space, in which the head has the same weights for every tower; a contrastive loss pulls the views
    of one thing together (Radford et al., CLIP, arXiv 2103.00020).

    Args:
        dim: Of the space.
        contrast: Weight of the contrastive loss; 0 for none.
        temperature: By which the cosines are divided in it, above 0.
    """
    if not (contrastive_weight >= 0 and temperature > 0):
        received = f"contrast={contrastive_weight}, temperature={temperature}"
        raise UserError("shared is out of range", got=received, expected="0 or more, and above 0")

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> FusionOutput:
        points = [
            _l2_normalize(keras.layers.Dense(dim, use_bias=False, name=f"{tower}_projection")(part))
            for tower, part in normalize_towers(towers, presence).items()
        ]
        weights = apply_masked_softmax(presence)
        views = keras.ops.stack(points, axis=1) if contrastive_weight else None
        # A head learns from numbers of size 1.
        return FusionOutput((Features(compute_weighted_sum(points, weights) * math.sqrt(dim)),), weights, views)

    return Fusion(fuse, contrastive_weight=contrastive_weight, temperature=temperature)


def _l2_normalize(x: keras.KerasTensor) -> keras.KerasTensor:
    """Of unit length; what has none stays zero, which Keras's own layer leaves undefined in a TFLite file."""
    return x * keras.ops.rsqrt(keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True) + 1e-6)
