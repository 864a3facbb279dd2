"""Segmentation task: each pixel of an image has exactly one class."""

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
    decoder: Decoder = "panoptic_fpn",
    neck: Spec = Spec("fpn"),  # noqa: B008 (frozen)
    stride: int = 8,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    dice: float = 1.0,
    class_weight: ClassWeights = "none",
    dropout: float = 0.1,
) -> Task:
    """Semantic segmentation with a light decoder on the feature pyramid, softmax, cross-entropy and Dice loss.

    The class named `background` stands for pixels of no other class: `predict` leaves it out of `label`, and drawings
    leave it clear.

    Args:
        labels: Classes with their numbers of training images.
        column: Column of the sample with the mask. Default `mask`.
        decoder: `panoptic_fpn` adds all levels of the neck (arXiv 1901.02446); `lraspp` (arXiv 1905.02244) needs no
            neck: it gates the coarsest level by the global context and adds the finest level. Default `panoptic_fpn`.
        neck: Spec of the neck of `panoptic_fpn`, such as `fpn(dim=96)`, `pan()` or `bifpn()`. Default `fpn()`.
        stride: 4, 8 or 16. Pixels along each side of one cell of the logits, which are upsampled to the image. Default
            8.
        label_smoothing: float, 0 to below 1. Fraction of the target that is spread over all classes. Default 0.
        focal: float >= 0. Gamma of the focal loss (arXiv 1708.02002). Default 0: plain cross-entropy.
        dice: float >= 0. Weight of the Dice loss (arXiv 1606.04797); 0 for none. Default 1.
        class_weight: `none` or `balanced`, which weights pixels inversely to the number of images with their class.
        dropout: float, 0 to below 1. Dropout rate before the logits. Default 0.1.
    """
    check_options("segment", label_smoothing=label_smoothing, focal=focal, dropout=dropout)
    if dice < 0:
        raise UserError("dice of segment() is out of range", got=dice, expected="0 or more")
    if stride not in (4, 8, 16):
        raise UserError("stride of segment() is out of range", got=stride, expected="4, 8 or 16")
    if len(labels.names) > IGNORE_INDEX:
        raise UserError(
            "The data has too many classes for masks", got=len(labels.names), expected=f"at most {IGNORE_INDEX}"
        )
    NECKS.build(neck, {})  # refuses wrong options before there is a pyramid
    levels = tuple(f"P{level}" for level in range(int(math.log2(stride)), 6))
    background_indices = tuple(index for index, name in enumerate(labels.names) if name == BACKGROUND)
    colors = make_palette(len(labels.names))

    def encode(sample: dict[str, tf.Tensor], shape: tf.Tensor, letterbox: Letterbox) -> tf.Tensor:
        check_sides(letterbox.side, letterbox.side // stride, stride)
        return masks.letterbox_mask(sample["mask"], letterbox)

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
            postprocess_fn=lambda outputs, nms_inputs=None: {"mask": outputs["mask"]},
            draw=lambda pixels, mask, is_target: draw_mask(pixels, mask, colors, background_indices),
            has_class_indices=True,
        ),
    )


def _decode(outputs: dict[str, Any], stride: int) -> dict[str, Any]:
    """Return class probabilities per cell of the logits, (batch, ..., classes), and the mask, uint8 (batch, ...)."""
    logits = outputs["logits"]
    upsampled = ops.image.resize(logits, (logits.shape[1] * stride, logits.shape[2] * stride), "bilinear")
    # The argmax of floats in Keras compares the signs of zeros, for which TFLite has no operator.
    is_highest = ops.cast(ops.equal(upsampled, ops.max(upsampled, -1, keepdims=True)), "uint8")
    return {"scores": ops.softmax(logits), "mask": ops.cast(ops.argmax(is_highest, -1), "uint8")}


def _pixel_accuracy(target: Any, logits: Any, stride: int) -> Any:
    """Compute the accuracy over the labeled cells of the logits, (batch,)."""
    target = ops.cast(target[:, stride // 2 :: stride, stride // 2 :: stride], "int32")
    valid = ops.cast(target != IGNORE_INDEX, "float32")
    correct = ops.cast(ops.cast(ops.argmax(logits, -1), "int32") == target, "float32")
    return ops.sum(correct, (1, 2)) / ops.maximum(ops.sum(valid, (1, 2)), 1.0)


def _format_prediction(names: tuple[str, ...], mask: np.ndarray) -> dict[str, Any]:
    """Return the classes in a mask (height, width) in order of their area, and the area fraction of each class."""
    fractions = np.bincount(mask.ravel(), minlength=len(names))[: len(names)] / max((mask != IGNORE_INDEX).sum(), 1)
    order = np.argsort(-fractions, kind="stable")
    present = [index for index in order if fractions[index] and names[index] != BACKGROUND]
    return {
        "label": [names[index] for index in present],
        "score": [float(fractions[index]) for index in present],
        "scores": dict(zip(names, map(float, fractions), strict=True)),
    }
