"""Head of a dense detector: class scores and box sides at every anchor point of a feature pyramid."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.levels import apply_separable_conv
from tfx_finetune.types.components import NECKS, Features

CLASSES, DISTANCES, LOGITS = "classes", "distances", "logits"
"""Outputs: class logits (batch, A, classes), side distances in strides (batch, A, 4), and both in one for the loss."""

_PRIOR = 0.01  # initial class score, as most anchor points are background (Lin et al., arXiv 1708.02002, section 4.1)
_INITIAL_DISTANCE = (
    2.0  # strides to each side at the start, so that small objects overlap most with boxes of fine levels
)


def make_dense_head(
    classes: int, neck: Spec, levels: Sequence[str], dim: int, depth: int
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """Return a head with two branches of separable convolutions per level, one for classes and one for boxes.

    The branches are those of EfficientDet (Tan et al., arXiv 1911.09070, section 4.1). As in NanoDet
    (https://github.com/RangiLyu/nanodet), levels share no layers, so that batch normalization folds into each, but
    kernels are 3 x 3: a step with 5 x 5 kernels took 1.8 times as long.

    Args:
        classes: int. Number of classes.
        neck: Spec of the neck in front of the branches.
        levels: Level names from fine to coarse, such as P3.
        dim: int >= 1. Channels of the branches.
        depth: int >= 1. Number of convolutions in each branch.

    Raises:
        UserError: If the backbone of the features lacks a level.
    """

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        if missing := [level for level in levels if level not in features.pyramid]:
            message = "detect() needs a feature level that the backbone lacks"
            raise UserError(message, got=missing[0], expected=list(features.pyramid))
        pyramid = NECKS.build(neck, {level: features.pyramid[level] for level in levels})
        class_bias = keras.initializers.Constant(float(-np.log((1 - _PRIOR) / _PRIOR)))
        outputs = {
            name: keras.layers.Concatenate(axis=1, dtype="float32")(
                [_make_output(_stack_convs(x, dim, depth), count, bias) for x in pyramid.values()]
            )
            for name, count, bias in (
                (CLASSES, classes, class_bias),
                (DISTANCES, 4, keras.initializers.Constant(_INITIAL_DISTANCE)),
            )
        }
        # Separate outputs have separate ranges in an int8 file.
        return {LOGITS: keras.layers.Concatenate(axis=-1, dtype="float32")(list(outputs.values()))} | outputs

    return head


def _stack_convs(x: keras.KerasTensor, dim: int, depth: int) -> keras.KerasTensor:
    for _ in range(depth):
        x = apply_separable_conv(x, dim)
    return x


def _make_output(x: keras.KerasTensor, count: int, bias: Any) -> keras.KerasTensor:
    """Return `count` float32 values per cell of a level, (batch, cells, count), under any precision policy."""
    kernel = keras.initializers.RandomNormal(stddev=0.01)
    x = keras.layers.Conv2D(count, 1, kernel_initializer=kernel, bias_initializer=bias, dtype="float32")(x)
    return keras.layers.Reshape((-1, count), dtype="float32")(x)
