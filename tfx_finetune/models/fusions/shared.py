"""One space and one head for all towers."""

import math
from collections.abc import Mapping

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.fusions.towers import mean, normalized, shares
from tfx_finetune.types.components import FUSIONS, Features, Fused, Fusion


@FUSIONS.register
def shared(dim: int = 256, contrast: float = 0.1, temperature: float = 0.1) -> Fusion:
    """Points of one space, in which the head has the same weights for every tower; a contrastive loss pulls the views
    of one thing together (Radford et al., CLIP, arXiv 2103.00020).

    Args:
        dim: Of the space.
        contrast: Weight of the contrastive loss; 0 for none.
        temperature: By which the cosines are divided in it, above 0.
    """
    if not (contrast >= 0 and temperature > 0):
        received = f"contrast={contrast}, temperature={temperature}"
        raise UserError("shared is out of range", received=received, allowed="0 or more, and above 0")

    def fuse(towers: Mapping[str, Features], presence: keras.KerasTensor) -> Fused:
        points = [
            _unit(keras.layers.Dense(dim, use_bias=False, name=f"{tower}_projection")(part))
            for tower, part in normalized(towers, presence).items()
        ]
        weights = shares(presence)
        views = keras.ops.stack(points, axis=1) if contrast else None
        # A head learns from numbers of size 1.
        return Fused((Features(mean(points, weights) * math.sqrt(dim)),), weights, views)

    return Fusion(fuse, contrast=contrast, temperature=temperature)


def _unit(x: keras.KerasTensor) -> keras.KerasTensor:
    """Of unit length; what has none stays zero, which Keras's own layer leaves undefined in a TFLite file."""
    return x * keras.ops.rsqrt(keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True) + 1e-6)
