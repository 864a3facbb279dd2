"""Segmentation: each pixel of a picture has exactly one of the classes."""

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.ops import masks
from tfx_finetune.ops.drawing import overlay, palette
from tfx_finetune.tasks.decoders import Decoder, pixelwise
from tfx_finetune.tasks.head import ClassWeights, check_options, class_weights
from tfx_finetune.tasks.segmentation_loss import Pixels, check_sides
from tfx_finetune.tasks.segmentation_metrics import correct, segmentation_scores
from tfx_finetune.types.components import NECKS, TASKS, Labels, Task
from tfx_finetune.types.localization import BACKGROUND, UNTOLD, Lay, Places


@TASKS.register
def segment(
    labels: Labels,
    /,
    *,
    column: str = "mask",
    decoder: Decoder = "summed",
    neck: Spec = Spec("fpn"),  # noqa: B008 (frozen)
    stride: int = 8,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    dice: float = 1.0,
    class_weight: ClassWeights = "none",
    dropout: float = 0.1,
) -> Task:
    """One class a pixel: a light decoder on the tower's pyramid, softmax, cross-entropy and Dice.

    A class named `background` is what is nothing else: `predict` does not name it, and it is drawn clear.

    Args:
        labels: The classes, and how many training pictures have each.
        column: The sample's column with the mask.
        decoder: `summed` adds up all levels that the neck gives, as Panoptic FPN does (arXiv 1901.02446); `gated` is
            LR-ASPP (arXiv 1905.02244), which needs no neck: the coarsest level, gated by the whole picture, and the
            finest.
        neck: What mixes the levels of `summed`, such as `fpn(dim=96)`, `pan()` or `bifpn()`.
        stride: Pixels along each side to one of the logits, which are enlarged to the picture's size: 4, 8 or 16.
        label_smoothing: Share of the target spread over all classes, 0 to below 1.
        focal: Gamma of the focal loss (arXiv 1708.02002); 0 is plain cross-entropy.
        dice: Weight of the Dice loss (arXiv 1606.04797); 0 for none.
        class_weight: `balanced` weighs pixels inversely to how many training pictures have their class.
        dropout: Share of features dropped before the logits in training, 0 to below 1.
    """
    check_options(label_smoothing=label_smoothing, focal=focal, dropout=dropout)
    if dice < 0:
        raise UserError("dice is out of range", received=dice, allowed="0 or more")
    if stride not in (4, 8, 16):
        raise UserError("stride is out of range", received=stride, allowed="4, 8 or 16")
    if len(labels.names) > UNTOLD:
        raise UserError("too many classes for masks", received=len(labels.names), allowed=f"at most {UNTOLD}")
    NECKS.build(neck, {})  # says what is wrong with it before there is a pyramid
    levels = tuple(f"P{level}" for level in range(int(math.log2(stride)), 6))
    clear = tuple(place for place, name in enumerate(labels.names) if name == BACKGROUND)
    colours = palette(len(labels.names))

    def encode(sample: dict[str, tf.Tensor], shape: tf.Tensor, lay: Lay) -> tf.Tensor:
        check_sides(lay.side, lay.side // stride, stride)
        return masks.laid(sample["mask"], lay)

    return Task(
        labels=labels,
        column=column,
        single=False,
        encode=lambda raw: raw,
        weight=lambda target: tf.constant(1.0),
        head=pixelwise(labels, decoder, neck, levels, dropout),
        loss=Pixels(class_weights(labels, class_weight), label_smoothing, focal, dice, stride),
        metrics=lambda: [keras.metrics.MeanMetricWrapper(functools.partial(_right, stride=stride), name="accuracy")],
        score="miou",
        decode=functools.partial(_decoded, stride=stride),
        scores=functools.partial(segmentation_scores, labels.names),
        correct=functools.partial(correct, len(labels.names)),
        predict=lambda mask: _said(labels.names, mask),
        read=lambda outputs: np.asarray(outputs["mask"]).astype(np.uint8),
        places=Places(
            levels=levels,
            read=lambda raw, shape: {"mask": masks.read(raw, shape)},
            encode=encode,
            examine=masks.examine,
            found=lambda outputs, limits=None: {"mask": outputs["mask"]},
            draw=lambda pixels, mask, truth: overlay(pixels, mask, colours, clear),
            indexed=True,
        ),
    )


def _decoded(outputs: dict[str, Any], stride: int) -> dict[str, Any]:
    """Probabilities at the logits' places, (batch, ..., classes), and the class of each pixel, uint8 (batch, ...)."""
    logits = outputs["logits"]
    whole = ops.image.resize(logits, (logits.shape[1] * stride, logits.shape[2] * stride), "bilinear")
    # Keras tells 0 from -0 in floats, for which TFLite has no operator.
    highest = ops.cast(ops.equal(whole, ops.max(whole, -1, keepdims=True)), "uint8")
    return {"scores": ops.softmax(logits), "mask": ops.cast(ops.argmax(highest, -1), "uint8")}


def _right(target: Any, logits: Any, stride: int) -> Any:
    """Share of the told pixels at the logits' places that have the right class, (batch,)."""
    target = ops.cast(target[:, stride // 2 :: stride, stride // 2 :: stride], "int32")
    told = ops.cast(target != UNTOLD, "float32")
    right = ops.cast(ops.cast(ops.argmax(logits, -1), "int32") == target, "float32")
    return ops.sum(right, (1, 2)) / ops.maximum(ops.sum(told, (1, 2)), 1.0)


def _said(names: tuple[str, ...], mask: np.ndarray) -> dict[str, Any]:
    """The things in a mask, (height, width), the largest first, and which share of it each class has."""
    shares = np.bincount(mask.ravel(), minlength=len(names))[: len(names)] / max((mask != UNTOLD).sum(), 1)
    found = [place for place in np.argsort(-shares, kind="stable") if shares[place] and names[place] != BACKGROUND]
    return {
        "label": [names[place] for place in found],
        "score": [float(shares[place]) for place in found],
        "scores": dict(zip(names, map(float, shares), strict=True)),
    }
