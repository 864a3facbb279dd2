"""From a pyramid to logits of pixels, by operators that TFLite has, in int8 too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops.levels import apply_batch_norm, apply_separable_conv, upsample
from tfx_finetune.types.components import NECKS, Features
from tfx_finetune.types.task import ClassLabels

Decoder = Literal["summed", "gated"]


def make_segmentation_head(
    labels: ClassLabels, decoder: Decoder, neck: Spec, levels: Sequence[str], dropout: float
) -> Callable[[Features], dict[str, keras.KerasTensor]]:
    """A head that says at every place of the finest level which class is there: `logits`, (batch, ..., classes).

    Args:
        labels: The classes, and how many training pictures have each.
        decoder: `summed` or `gated`, what the levels go through.
        neck: What mixes them before they are summed.
        levels: Names from fine to coarse, such as P3.
        dropout: Share of features dropped before the logits in training.

    Raises:
        UserError: The tower of the features lacks one of the levels.
    """

    def head(features: Features) -> dict[str, keras.KerasTensor]:
        if missing := [level for level in levels if level not in features.pyramid]:
            received, allowed = f"no {', '.join(missing)}", f"a backbone of pictures with {', '.join(levels)}"
            raise UserError("segment() lacks levels of the pyramid", got=received, expected=allowed)
        pyramid = {level: features.pyramid[level] for level in levels}
        if decoder == "summed":
            return {"logits": _make_logits(panoptic_fpn(pyramid, neck), labels, dropout)}
        coarse, fine = lraspp(pyramid, 128)
        # What is fine begins at nothing: the coarse level says more.
        more = keras.layers.Conv2D(len(labels.names), 1, kernel_initializer="zeros", use_bias=False, dtype="float32")
        return {"logits": keras.layers.Add(dtype="float32")([_make_logits(coarse, labels, dropout), more(fine)])}

    return head


def panoptic_fpn(pyramid: Mapping[str, keras.KerasTensor], neck: Spec) -> keras.KerasTensor:
    """All levels, mixed by the neck, in the size of the finest one: added, then mixed once more.

    The head of Panoptic FPN (Kirillov et al., arXiv 1901.02446, section 3.1) with one enlargement a level.
    """
    finest, *coarser = NECKS.build(neck, pyramid).values()
    x = finest
    # One by one: in int8 each sum has a scale of its own.
    for place, level in enumerate(coarser, 1):
        x = keras.layers.Add()([x, upsample(level, finest, 2**place, "bilinear")])
    return apply_separable_conv(x, finest.shape[-1])


def lraspp(pyramid: Mapping[str, keras.KerasTensor], dim: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The coarsest level, each channel by how much it matters to the whole picture, in the size of the finest; and
    the finest (LR-ASPP of MobileNetV3: Howard et al., arXiv 1905.02244, section 6.4).
    """
    finest, *_, coarsest = pyramid.values()
    x = apply_batch_norm(keras.layers.Conv2D(dim, 1, use_bias=False)(coarsest))
    whole = keras.layers.GlobalAveragePooling2D(keepdims=True)(coarsest)
    gate = keras.layers.Conv2D(dim, 1, use_bias=False, activation="sigmoid")(whole)
    x = keras.layers.Multiply()([keras.layers.ReLU(6.0)(x), gate])
    return upsample(x, finest, 2 ** (len(pyramid) - 1), "bilinear"), finest


def _make_logits(x: keras.KerasTensor, labels: ClassLabels, dropout: float) -> keras.KerasTensor:
    """The last layer, which begins near the shares of pictures that have each class."""
    counts = np.maximum(np.asarray(labels.counts, np.float32), 0.5)
    # They stay float32 under a mixed-precision policy: softmax in 8 bits of mantissa loses accuracy.
    last = keras.layers.Conv2D(
        len(labels.names),
        1,
        bias_initializer=keras.initializers.Constant(np.log(counts / counts.sum()).tolist()),
        dtype="float32",
    )
    return last(keras.layers.Dropout(dropout)(x))
