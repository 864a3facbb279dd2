"""From a pyramid to logits of pixels, by operators that TFLite has, in int8 too."""

from collections.abc import Mapping

import keras

from tfx_finetune.contracts import NECKS
from tfx_finetune.core.spec import Spec
from tfx_finetune.levels import mixed, normalized, up


def summed(pyramid: Mapping[str, keras.KerasTensor], neck: Spec) -> keras.KerasTensor:
    """All levels, mixed by the neck, in the size of the finest one: added, then mixed once more.

    The head of Panoptic FPN (Kirillov et al., arXiv 1901.02446, section 3.1) with one enlargement a level.
    """
    finest, *coarser = NECKS.build(neck, pyramid).values()
    x = finest
    # One by one: in int8 each sum has a scale of its own.
    for place, level in enumerate(coarser, 1):
        x = keras.layers.Add()([x, up(level, finest, 2**place, "bilinear")])
    return mixed(x, finest.shape[-1])


def gated(pyramid: Mapping[str, keras.KerasTensor], dim: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The coarsest level, each channel by how much it matters to the whole picture, in the size of the finest; and
    the finest (LR-ASPP of MobileNetV3: Howard et al., arXiv 1905.02244, section 6.4).
    """
    finest, *_, coarsest = pyramid.values()
    x = normalized(keras.layers.Conv2D(dim, 1, use_bias=False)(coarsest))
    whole = keras.layers.GlobalAveragePooling2D(keepdims=True)(coarsest)
    gate = keras.layers.Conv2D(dim, 1, use_bias=False, activation="sigmoid")(whole)
    x = keras.layers.Multiply()([keras.layers.ReLU(6.0)(x), gate])
    return up(x, finest, 2 ** (len(pyramid) - 1), "bilinear"), finest
