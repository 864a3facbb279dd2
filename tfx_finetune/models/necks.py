"""Feature pyramid necks: FPN, PAN and BiFPN.

A neck takes pyramid levels (batch, side, side, channels), from fine to coarse, and returns the same levels with `dim`
channels each.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.levels import (
    Levels,
    apply_separable_conv,
    fuse_top_down,
    make_laterals,
    match_size,
    upsample,
)
from tfx_finetune.types.components import NECKS


@NECKS.register
def fpn(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96) -> Levels:
    """Add to each level the upsampled coarser levels (FPN, Lin et al., arXiv 1612.03144).

    Args:
        pyramid: Feature maps (batch, side, side, channels) by level, from fine to coarse, each half the side of the
            one before.
        dim: int >= 1. Number of output channels of each level. Default 96.
    """
    levels = fuse_top_down(make_laterals("fpn", pyramid, dim))
    return {level: apply_separable_conv(x, dim) for level, x in levels.items()}


@NECKS.register
def pan(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96) -> Levels:
    """Add to each level the upsampled coarser levels, then the downsampled finer ones (PANet, arXiv 1803.01534).

    Args:
        pyramid: Feature maps (batch, side, side, channels) by level, from fine to coarse, each half the side of the
            one before.
        dim: int >= 1. Number of output channels of each level. Default 96.
    """
    outputs: Levels = {}
    finer = None
    for level, x in fuse_top_down(make_laterals("pan", pyramid, dim)).items():
        if finer is not None:
            x = keras.layers.Add()([x, match_size(apply_separable_conv(finer, dim, strides=2), x)])
        outputs[level] = finer = apply_separable_conv(x, dim)
    return outputs


@NECKS.register
def bifpn(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96, repeats: int = 2) -> Levels:
    """Apply weighted top-down and bottom-up fusion several times (BiFPN, Tan et al., arXiv 1911.09070, section 3).

    ReLU6 replaces the paper's swish activation, for int8.

    Args:
        pyramid: Feature maps (batch, side, side, channels) by level, from fine to coarse, each half the side of the
            one before.
        dim: int >= 1. Number of output channels of each level. Default 96.
        repeats: int >= 1. Number of BiFPN layers. Default 2.

    Raises:
        UserError: If `dim` or `repeats` is below 1.
    """
    if repeats < 1:
        raise UserError("Options of bifpn() are out of range", got=f"repeats={repeats}", expected="repeats >= 1")
    levels = make_laterals("bifpn", pyramid, dim)
    for _ in range(repeats if len(levels) > 1 else 0):
        levels = _apply_bifpn_layer(levels, dim)
    return levels


def _apply_bifpn_layer(levels: Levels, dim: int) -> Levels:
    """Apply one BiFPN layer: a top-down path, then a bottom-up path with a skip connection from the input."""
    names = list(levels)
    coarsest = names[-1]
    coarser = levels[coarsest]
    top_down: Levels = {coarsest: coarser}
    for level in names[-2::-1]:
        fused = FastNormalizedFusion()([levels[level], upsample(coarser, levels[level])])
        top_down[level] = coarser = apply_separable_conv(fused, dim)
    outputs: Levels = {}
    finer = None
    for level, x in levels.items():
        if finer is None:
            finer = top_down[level]
        else:
            downsampled = match_size(keras.layers.MaxPooling2D(3, 2, padding="same")(finer), x)
            inputs = [x, downsampled] if level == coarsest else [x, top_down[level], downsampled]
            finer = apply_separable_conv(FastNormalizedFusion()(inputs), dim)
        outputs[level] = finer
    return outputs


@keras.saving.register_keras_serializable("tfx_finetune", name="Fusion")
class FastNormalizedFusion(keras.layers.Layer):
    """Weighted sum of tensors of one shape (fast normalized fusion, EfficientDet, arXiv 1911.09070, section 3.3).

    The weight of tensor i is relu(w_i) / (sum of relu(w) + 1e-4), with trainable w of initial value 1.
    """

    def build(self, shapes: list[tuple]) -> None:  # noqa: D102
        self.fusion_weights = self.add_weight(shape=(len(shapes),), initializer="ones", name="fusion_weights")

    def call(self, tensors: list[keras.KerasTensor]) -> keras.KerasTensor:  # noqa: D102
        weights = self.normalize_weights()
        return sum((x * weights[index] for index, x in enumerate(tensors[1:], 1)), tensors[0] * weights[0])

    def normalize_weights(self) -> keras.KerasTensor:
        """Return the normalized weights, (tensors,)."""
        weights = ops.relu(self.fusion_weights)
        return weights / (ops.sum(weights) + 1e-4)

    def compute_output_shape(self, shapes: list[tuple]) -> Any:  # noqa: D102
        return shapes[0]


# Keras stores the weights of a layer under the name of its class; existing files have this one.
FastNormalizedFusion.__name__ = "Fusion"
