"""Weighted bidirectional feature pyramid network."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.levels import Levels, apply_separable_conv, make_laterals, match_size, upsample
from tfx_finetune.types.components import NECKS


@NECKS.register
def bifpn(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96, repeats: int = 2) -> Levels:
    """Levels see the coarser ones and then the finer ones, weighed, several times over (EfficientDet: Tan et al.,
    arXiv 1911.09070, section 3). ReLU6 takes the place of swish, for int8.

    Args:
        pyramid: Levels from fine to coarse, each of half the side of the one before, (batch, side, side, channels).
        dim: Channels of each level that comes out, 1 or more.
        repeats: How often levels see one another, 1 or more.
    """
    if repeats < 1:
        raise UserError("the repeats of bifpn are out of range", got=repeats, expected="1 or more")
    levels = make_laterals("bifpn", pyramid, dim)
    for _ in range(repeats if len(levels) > 1 else 0):
        levels = _apply_bifpn_layer(levels, dim)
    return levels


def _apply_bifpn_layer(levels: Levels, dim: int) -> Levels:
    """What each level gives once it has seen all others; the outermost ones see one way."""
    *_, coarsest = levels
    down: Levels = {coarsest: levels[coarsest]}
    above = levels[coarsest]
    for level in list(levels)[-2::-1]:
        above = apply_separable_conv(FastNormalizedFusion()([levels[level], upsample(above, levels[level])]), dim)
        down[level] = above
    found: Levels = {}
    below = None
    for level, x in levels.items():
        if below is None:
            below = down[level]
        else:
            finer = match_size(keras.layers.MaxPooling2D(3, 2, padding="same")(below), x)
            seen = [x, finer] if level == coarsest else [x, down[level], finer]
            below = apply_separable_conv(FastNormalizedFusion()(seen), dim)
        found[level] = below
    return found


@keras.saving.register_keras_serializable("tfx_finetune")
class FastNormalizedFusion(keras.layers.Layer):
    """Fast normalized fusion: the sum of tensors of one shape, each times its share, w / (sum of w + 1e-4), where no
    w is less than 0 (EfficientDet, section 3.3).
    """

    def build(self, shapes: list[tuple]) -> None:  # noqa: D102
        self.fusion_weights = self.add_weight(shape=(len(shapes),), initializer="ones", name="shares")

    def call(self, tensors: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        weights = self.normalize_weights()
        return sum((x * weights[place] for place, x in enumerate(tensors[1:], 1)), tensors[0] * weights[0])

    def normalize_weights(self) -> keras.KerasTensor:
        """The shares, (tensors,)."""
        found = ops.relu(self.fusion_weights)
        return found / (ops.sum(found) + 1e-4)

    def compute_output_shape(self, shapes: list[tuple]) -> Any:  # noqa: D102
        return shapes[0]
