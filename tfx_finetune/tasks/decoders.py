"""Segmentation head: decoders from a feature pyramid to pixel logits, with operators that TFLite has in int8 too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.levels import apply_batch_norm, apply_separable_conv, upsample
from tfx_finetune.types.components import NECKS, Features
from tfx_finetune.types.task import ClassLabels

Decoder = Literal["panoptic_fpn", "lraspp"]


def make_segmentation_head(
    labels: ClassLabels, decoder: Decoder, neck: Spec, levels: Sequence[str], dropout: float
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """Return a head with class logits at every cell of the finest level: `logits`, (batch, height, width, classes).

    Args:
        labels: Classes with their numbers of training images.
        decoder: `panoptic_fpn` or `lraspp`.
        neck: Spec of the neck in front of `panoptic_fpn`.
        levels: Level names from fine to coarse, such as P3.
        dropout: float, 0 to below 1. Dropout rate before the logits.

    Raises:
        UserError: If the backbone of the features lacks a level.
    """

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        if missing := [level for level in levels if level not in features.pyramid]:
            message = f"segment() needs feature levels that the backbone lacks: {', '.join(missing)}"
            raise UserError(message, expected=f"an image backbone with {', '.join(levels)}")
        pyramid = {level: features.pyramid[level] for level in levels}
        if decoder == "panoptic_fpn":
            return {"logits": _make_logits(panoptic_fpn(pyramid, neck), labels, dropout)}
        coarse, fine = lraspp(pyramid, 128)
        # The logits of the fine level start at 0, because the coarse level has more context.
        fine_logits = keras.layers.Conv2D(
            len(labels.names), 1, kernel_initializer="zeros", use_bias=False, dtype="float32"
        )
        coarse_logits = _make_logits(coarse, labels, dropout)
        return {"logits": keras.layers.Add(dtype="float32")([coarse_logits, fine_logits(fine)])}

    return head


def panoptic_fpn(pyramid: Mapping[str, keras.KerasTensor], neck: Spec) -> keras.KerasTensor:
    """Add all levels of the neck in the size of the finest one, and apply one more convolution.

    This is the head of Panoptic FPN (Kirillov et al., arXiv 1901.02446, section 3.1) with one upsampling per level.
    """
    finest, *coarser = NECKS.build(neck, pyramid).values()
    x = finest
    # Levels are added one by one, because each sum has a scale of its own in an int8 file.
    for index, level in enumerate(coarser, 1):
        x = keras.layers.Add()([x, upsample(level, finest, 2**index, "bilinear")])
    return apply_separable_conv(x, finest.shape[-1])


def lraspp(pyramid: Mapping[str, keras.KerasTensor], dim: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Gate the channels of the coarsest level by global context, and upsample it to the finest level.

    This is LR-ASPP of MobileNetV3 (Howard et al., arXiv 1905.02244, section 6.4).

    Args:
        pyramid: Feature maps by level, from fine to coarse.
        dim: int. Channels of the result.

    Returns:
        The gated level in the size of the finest level, and the finest level itself.
    """
    finest, *_, coarsest = pyramid.values()
    x = apply_batch_norm(keras.layers.Conv2D(dim, 1, use_bias=False)(coarsest))
    context = keras.layers.GlobalAveragePooling2D(keepdims=True)(coarsest)
    gate = keras.layers.Conv2D(dim, 1, use_bias=False, activation="sigmoid")(context)
    x = keras.layers.Multiply()([keras.layers.ReLU(6.0)(x), gate])
    return upsample(x, finest, 2 ** (len(pyramid) - 1), "bilinear"), finest


def _make_logits(x: keras.KerasTensor, labels: ClassLabels, dropout: float) -> keras.KerasTensor:
    """Apply dropout and the last layer, whose bias starts at the log frequencies of the classes in images."""
    counts = np.maximum(np.asarray(labels.counts, np.float32), 0.5)
    # The logits stay float32 under a mixed-precision policy: softmax in 8 bits of mantissa loses accuracy.
    logits = keras.layers.Conv2D(
        len(labels.names),
        1,
        bias_initializer=keras.initializers.Constant(np.log(counts / counts.sum()).tolist()),
        dtype="float32",
    )
    return logits(keras.layers.Dropout(dropout)(x))
