"""Feature pyramid network."""

from collections.abc import Mapping

import keras

from tfx_finetune.contracts import NECKS
from tfx_finetune.core.errors import UserError


@NECKS.register
def fpn(pyramid: Mapping[str, keras.KerasTensor], /, *, dim: int = 96) -> dict[str, keras.KerasTensor]:
    """Adds to each level what the coarser one sees (Lin et al., arXiv 1612.03144).

    Args:
        pyramid: Levels from fine to coarse, each of half the side of the one before, (batch, side, side, channels).
        dim: Channels of each level that comes out.
    """
    if dim < 1:
        raise UserError("the channels of fpn are out of range", received=dim, allowed="1 or more")
    found: dict[str, keras.KerasTensor] = {}
    above = None
    for level, x in reversed(list(pyramid.items())):
        x = keras.layers.Conv2D(dim, 1, use_bias=False, name=f"fpn_{level}_lateral")(x)
        x = keras.layers.BatchNormalization(name=f"fpn_{level}_lateral_bn")(x)
        if above is not None:
            x = keras.layers.Add(name=f"fpn_{level}_add")([x, keras.layers.UpSampling2D(name=f"fpn_{level}_up")(above)])
        above = x
        x = keras.layers.SeparableConv2D(dim, 3, padding="same", use_bias=False, name=f"fpn_{level}_mix")(x)
        x = keras.layers.BatchNormalization(name=f"fpn_{level}_mix_bn")(x)
        found[level] = keras.layers.ReLU(6.0, name=f"fpn_{level}")(x)
    return dict(reversed(list(found.items())))
