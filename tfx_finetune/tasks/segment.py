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
from tfx_finetune.ops.drawing import draw_mask, make_palette
from tfx_finetune.tasks.decoders import Decoder, make_segmentation_head
from tfx_finetune.tasks.head import ClassWeights, check_options, compute_class_weights
from tfx_finetune.tasks.segmentation_loss import CrossEntropyDice, check_sides
from tfx_finetune.tasks.segmentation_metrics import compute_miou_per_image, compute_segmentation_metrics
from tfx_finetune.types.components import NECKS, TASKS
from tfx_finetune.types.localization import BACKGROUND, IGNORE_INDEX, Letterbox, LocalizationTarget
from tfx_finetune.types.task import ClassLabels, Task


@TASKS.register
def segment(
    labels: ClassLabels,
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
        raise UserError("dice is out of range", got=dice, expected="0 or more")
    if stride not in (4, 8, 16):
        raise UserError("stride is out of range", got=stride, expected="4, 8 or 16")
    if len(labels.names) > IGNORE_INDEX:
        raise UserError("too many classes for masks", got=len(labels.names), expected=f"at most {IGNORE_INDEX}")
    NECKS.build(neck, {})  # says what is wrong with it before there is a pyramid
    levels = tuple(f"P{level}" for level in range(int(math.log2(stride)), 6))
    clear = tuple(place for place, name in enumerate(labels.names) if name == BACKGROUND)
    colours = make_palette(len(labels.names))

    def encode(sample: dict[str, tf.Tensor], shape: tf.Tensor, lay: Letterbox) -> tf.Tensor:
        check_sides(lay.side, lay.side // stride, stride)
        return masks.letterbox_mask(sample["mask"], lay)

    return Task(
        labels=labels,
        column=column,
        single_label=False,
        encode=lambda raw: raw,
        weight=lambda target: tf.constant(1.0),
        head=make_segmentation_head(labels, decoder, neck, levels, dropout),
        loss=CrossEntropyDice(compute_class_weights(labels, class_weight), label_smoothing, focal, dice, stride),
        make_metrics=lambda: [
            keras.metrics.MeanMetricWrapper(functools.partial(_pixel_accuracy, stride=stride), name="accuracy")
        ],
        monitor="miou",
        decode=functools.partial(_decode, stride=stride),
        compute_metrics=functools.partial(compute_segmentation_metrics, labels.names),
        per_sample_score=functools.partial(compute_miou_per_image, len(labels.names)),
        format_prediction=lambda mask: _format_prediction(labels.names, mask),
        postprocess=lambda outputs: np.asarray(outputs["mask"]).astype(np.uint8),
        localization=LocalizationTarget(
            levels=levels,
            read_annotations=lambda raw, shape: {"mask": masks.read_mask(raw, shape)},
            encode=encode,
            check_annotations=masks.check_mask,
            postprocess_fn=lambda outputs, limits=None: {"mask": outputs["mask"]},
            draw=lambda pixels, mask, truth: draw_mask(pixels, mask, colours, clear),
            has_class_indices=True,
        ),
    )


def _decode(outputs: dict[str, Any], stride: int) -> dict[str, Any]:
    """Probabilities at the logits' places, (batch, ..., classes), and the class of each pixel, uint8 (batch, ...)."""
    logits = outputs["logits"]
    whole = ops.image.resize(logits, (logits.shape[1] * stride, logits.shape[2] * stride), "bilinear")
    # Keras tells 0 from -0 in floats, for which TFLite has no operator.
    highest = ops.cast(ops.equal(whole, ops.max(whole, -1, keepdims=True)), "uint8")
    return {"scores": ops.softmax(logits), "mask": ops.cast(ops.argmax(highest, -1), "uint8")}


def _pixel_accuracy(target: Any, logits: Any, stride: int) -> Any:
    """Share of the told pixels at the logits' places that have the right class, (batch,)."""
    target = ops.cast(target[:, stride // 2 :: stride, stride // 2 :: stride], "int32")
    told = ops.cast(target != IGNORE_INDEX, "float32")
    right = ops.cast(ops.cast(ops.argmax(logits, -1), "int32") == target, "float32")
    return ops.sum(right, (1, 2)) / ops.maximum(ops.sum(told, (1, 2)), 1.0)


def _format_prediction(names: tuple[str, ...], mask: np.ndarray) -> dict[str, Any]:
    """The things in a mask, (height, width), the largest first, and which share of it each class has."""
    shares = np.bincount(mask.ravel(), minlength=len(names))[: len(names)] / max((mask != IGNORE_INDEX).sum(), 1)
    found = [place for place in np.argsort(-shares, kind="stable") if shares[place] and names[place] != BACKGROUND]
    return {
        "label": [names[place] for place in found],
        "score": [float(shares[place]) for place in found],
        "scores": dict(zip(names, map(float, shares), strict=True)),
    }
