"""Path aggregation network."""

from collections.abc import Mapping

import keras

from tfx_finetune.ops.levels import apply_separable_conv, fuse_top_down, make_laterals, match_size
from tfx_finetune.types.components import NECKS


@NECKS.register
def pan(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96) -> dict[str, keras.KerasTensor]:
    """Adds to each level what the coarser one sees, then what the finer one sees (Liu et al., arXiv 1803.01534).

    Args:
        pyramid: Levels from fine to coarse, each of half the side of the one before, (batch, side, side, channels).
        dim: Channels of each level that comes out, 1 or more.
    """
    found: dict[str, keras.KerasTensor] = {}
    below = None
    for level, x in fuse_top_down(make_laterals("pan", pyramid, dim)).items():
        if below is not None:
            x = keras.layers.Add()([x, match_size(apply_separable_conv(below, dim, strides=2), x)])
        below = apply_separable_conv(x, dim)
        found[level] = below
    return found
