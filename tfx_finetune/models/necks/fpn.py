"""Feature pyramid network."""

from collections.abc import Mapping

import keras

from tfx_finetune.ops.levels import apply_separable_conv, fuse_top_down, make_laterals
from tfx_finetune.types.components import NECKS


@NECKS.register
def fpn(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96) -> dict[str, keras.KerasTensor]:
    """Adds to each level what the coarser one sees (Lin et al., arXiv 1612.03144).

    Args:
        pyramid: Levels from fine to coarse, each of half the side of the one before, (batch, side, side, channels).
        dim: Channels of each level that comes out, 1 or more.
    """
    return {
        level: apply_separable_conv(x, dim) for level, x in fuse_top_down(make_laterals("fpn", pyramid, dim)).items()
    }
