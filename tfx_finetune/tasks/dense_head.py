"""A head that says at every place of a pyramid which object is there, and how far its sides are."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.levels import apply_separable_conv
from tfx_finetune.types.components import NECKS, Features

CLASSES, DISTANCES, LOGITS = "classes", "distances", "logits"
"""Outputs: logits of classes (batch, A, classes), distances in strides (batch, A, 4), and for the loss both in one."""

_PRIOR = 0.01  # of a class at a place, at first: most places have nothing (Lin et al., arXiv 1708.02002, section 4.1)
_INITIAL_DISTANCE = 2.0  # strides to each side at first, so that small objects overlap most with boxes of fine levels


def make_dense_head(
    classes: int, neck: Spec, levels: Sequence[str], dim: int, depth: int
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """Two small towers a level, one for classes and one for boxes, of separable convolutions as EfficientDet has them
    (Tan et al., arXiv 1911.09070, section 4.1). Levels share no layer, so that normalization folds into each: so it is
    in NanoDet (https://github.com/RangiLyu/nanodet). Kernels of 3 x 3: those of 5 x 5 took 1.8 times as long a step.

    Args:
        classes: How many there are.
        neck: What the levels of the pyramid go through first.
        levels: Names from fine to coarse, such as P3.
        dim: Channels of the towers.
        depth: Convolutions in each.

    Raises:
        UserError: The tower of the features has no such level.
    """

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        if missing := [level for level in levels if level not in features.pyramid]:
            raise UserError("the backbone has no such level", got=missing[0], expected=list(features.pyramid))
        pyramid = NECKS.build(neck, {level: features.pyramid[level] for level in levels})
        bias = keras.initializers.Constant(float(-np.log((1 - _PRIOR) / _PRIOR)))
        found = {
            name: keras.layers.Concatenate(axis=1, dtype="float32")(
                [_make_output(_stack_convs(x, dim, depth), count, start) for x in pyramid.values()]
            )
            for name, count, start in (
                (CLASSES, classes, bias),
                (DISTANCES, 4, keras.initializers.Constant(_INITIAL_DISTANCE)),
            )
        }
        # Apart, so that each has a range of its own where a file computes in integers.
        return {LOGITS: keras.layers.Concatenate(axis=-1, dtype="float32")(list(found.values()))} | found

    return head


def _stack_convs(x: keras.KerasTensor, dim: int, depth: int) -> keras.KerasTensor:
    for _ in range(depth):
        x = apply_separable_conv(x, dim)
    return x


def _make_output(x: keras.KerasTensor, count: int, bias: Any) -> keras.KerasTensor:
    """So many numbers a place, (batch, places, count), in float32 whatever the towers compute in."""
    small = keras.initializers.RandomNormal(stddev=0.01)
    x = keras.layers.Conv2D(count, 1, kernel_initializer=small, bias_initializer=bias, dtype="float32")(x)
    return keras.layers.Reshape((-1, count), dtype="float32")(x)
