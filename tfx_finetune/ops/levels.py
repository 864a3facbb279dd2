"""Layer 1: what is done with the levels of a pyramid, all of it by TFLite's builtin operators, in int8 too."""

from collections.abc import Mapping
from typing import Literal

import keras

from tfx_finetune.core.errors import UserError

Levels = dict[str, keras.KerasTensor]


def make_laterals(name: str, pyramid: Mapping[str, keras.KerasTensor], dim: int) -> Levels:
    """Each level with `dim` channels, by a convolution of 1 x 1.

    Raises:
        UserError: There are no channels to give; `name` is the neck's.
    """
    if dim < 1:
        raise UserError(f"the channels of {name} are out of range", got=dim, expected="1 or more")
    found = {level: keras.layers.Conv2D(dim, 1, use_bias=False)(x) for level, x in pyramid.items()}
    return {level: apply_batch_norm(x) for level, x in found.items()}


def apply_separable_conv(x: keras.KerasTensor, dim: int, strides: int = 1) -> keras.KerasTensor:
    """A separable convolution of 3 x 3, normalized and rectified."""
    x = keras.layers.SeparableConv2D(dim, 3, strides, padding="same", use_bias=False)(x)
    return keras.layers.ReLU(6.0)(apply_batch_norm(x))


def apply_batch_norm(x: keras.KerasTensor) -> keras.KerasTensor:
    """Normalization that knows its statistics after a few dozen steps, as PyTorch's does.

    Keras's own momentum of 0.99 wants a thousand: after 228 steps a detector whose AP50 was 0.91 by the statistics of
    the batch found nothing by those that were kept.
    """
    return keras.layers.BatchNormalization(momentum=0.9)(x)


def upsample(
    x: keras.KerasTensor,
    finer: keras.KerasTensor,
    factor: int = 2,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
) -> keras.KerasTensor:
    """A level with the height and width of a finer one, of which each side is `factor` times its own."""
    if factor > 1:
        x = keras.layers.UpSampling2D(factor, interpolation=interpolation)(x)
    return match_size(x, finer)


def match_size(x: keras.KerasTensor, other: keras.KerasTensor) -> keras.KerasTensor:
    """A feature map with the height and width of another: cut, or filled with zeros, below and on the right.

    Of a side of 19, the next level has 10, and twice that is 20. Networks that do not pad leave one less.
    """
    more = [mine - theirs for mine, theirs in zip(x.shape[1:3], other.shape[1:3], strict=True)]
    if any(side > 0 for side in more):
        x = keras.layers.Cropping2D([(0, max(side, 0)) for side in more])(x)
    if any(side < 0 for side in more):
        x = keras.layers.ZeroPadding2D([(0, max(-side, 0)) for side in more])(x)
    return x


def fuse_top_down(levels: Mapping[str, keras.KerasTensor]) -> Levels:
    """Adds to each level, from coarse to fine, what the coarser one has."""
    found: Levels = {}
    above = None
    for level, x in reversed(list(levels.items())):
        above = x if above is None else keras.layers.Add()([x, upsample(above, x)])
        found[level] = above
    return dict(reversed(found.items()))
