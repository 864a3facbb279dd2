"""Detection task: the objects of an image with their classes and boxes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.tasks import average_precision, error_analysis
from tfx_finetune.tasks.dense_head import make_dense_head
from tfx_finetune.tasks.detection_loss import BoxLoss, DetectionLoss, TaskAlignedAssigner
from tfx_finetune.tasks.detection_targets import make_detection_target
from tfx_finetune.tasks.postprocess import NMS_INPUTS, DetectionPostprocess
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels, Task


@TASKS.register
def detect(
    labels: ClassLabels,
    /,
    *,
    column: str = "objects",
    neck: Spec = Spec("bifpn", (), {"dim": 96}),  # noqa: B008 (frozen)
    levels: tuple = ("P3", "P4", "P5"),
    dim: int = 96,
    depth: int = 2,
    max_objects: int = 100,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    gamma: float = 2.0,
    box_loss: BoxLoss = "giou",
    box_weight: float = 2.0,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
    display_threshold: float = 0.3,
) -> Task:
    """Object detection with a dense, anchor-free detector.

    Each anchor point of the feature pyramid predicts class scores and the distances to the four sides of a box (FCOS:
    Tian et al., arXiv 1904.01355), with a light head like that of NanoDet-Plus. Predictions decide which anchor points
    are trained on which object (TOOD, arXiv 2108.07755), and a class score predicts the quality of the box (GFL, arXiv
    2006.04388). The side of the model input must be a multiple of the finest stride: 8 pixels with P3.

    Args:
        labels: Classes with their training counts.
        column: Column of the sample with the objects. Default `objects`.
        neck: Spec of the feature pyramid neck. Default `bifpn(dim=96)`.
        levels: Pyramid levels from fine to coarse; P3 has a cell every 2^3 pixels. Default P3, P4, P5.
        dim: int >= 1. Channels of the head. Default 96.
        depth: int >= 1. Number of convolutions in each branch of the head. Default 2.
        max_objects: int >= 1. Maximum number of objects per image; images with more are not used. Default 100.
        topk: int >= 1. Number of anchor points that are trained on an object. Default 13.
        alpha: float >= 0. Exponent of the class score in the selection of anchor points. Default 1.
        beta: float >= 0. Exponent of the IoU in the selection of anchor points. Default 6.
        gamma: float >= 0. Exponent that reduces the loss of nearly correct class scores. Default 2.
        box_loss: `giou` or `diou`. Default `giou`.
        box_weight: float >= 0. Weight of the box loss relative to the class loss. Default 2.
        score_threshold: float, 0 to 1. Minimum score of a detection in exported files and scores. Default 0.05.
        iou_threshold: float, 0 to 1. If two boxes of one class overlap by more than this intersection over union, the
            box with the lower score is removed. Default 0.6.
        max_detections: int >= 1. Maximum number of detections per image. Default 100.
        display_threshold: float, 0 to 1. Minimum score of a detection that `predict` prints and draws, and of those
            that count for precision, recall and F1. Default 0.3.
    """
    counts = {"dim": dim, "depth": depth, "max_objects": max_objects, "topk": topk, "max_detections": max_detections}
    _check_ranges(counts, 1, None)
    _check_ranges({"alpha": alpha, "beta": beta, "gamma": gamma, "box_weight": box_weight}, 0, None)
    thresholds = {
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "display_threshold": display_threshold,
    }
    _check_ranges(thresholds, 0, 1)
    levels, names = _check_levels(levels), labels.names
    postprocess = DetectionPostprocess(
        names, levels, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
    )
    return Task(
        labels=labels,
        column=column,
        single_label=False,
        encode=lambda objects: objects,
        weight=lambda target: tf.constant(1.0),
        head=make_dense_head(len(names), neck, levels, dim, depth),
        loss=DetectionLoss(levels, TaskAlignedAssigner(topk, alpha, beta), gamma, box_loss, box_weight),
        make_metrics=list,
        monitor="map",
        decode=postprocess.decode,
        compute_metrics=lambda targets, detections, full_report=True: _compute_metrics(
            names, targets, detections, display_threshold, full_report
        ),
        per_sample_score=lambda targets, detections: error_analysis.compute_f1_per_image(
            targets, detections, display_threshold
        ),
        format_prediction=lambda detections: _format_prediction(names, detections, display_threshold),
        postprocess=postprocess.postprocess,
        localization=make_detection_target(
            names, levels, max_objects, postprocess.postprocess_with_names, NMS_INPUTS, display_threshold
        ),
    )


def _check_ranges(options: Mapping[str, float], min_value: float, max_value: float | None) -> None:
    for name, value in options.items():
        if not (value >= min_value and (max_value is None or value <= max_value)):
            expected = f"{min_value} or more" if max_value is None else f"{min_value} to {max_value}"
            raise UserError(f"{name} of detect() is out of range", got=value, expected=expected)


def _check_levels(levels: tuple) -> tuple[str, ...]:
    """Return the pyramid levels if they are valid and sorted from fine to coarse."""
    valid = [f"P{level}" for level in range(2, 8)]
    if not levels or list(levels) != sorted(set(levels) & set(valid)):
        expected = f"some of {', '.join(valid)}, from fine to coarse"
        raise UserError("levels of detect() are invalid", got=levels, expected=expected)
    return tuple(levels)


def _compute_metrics(
    names: tuple[str, ...], targets: np.ndarray, detections: np.ndarray, display_threshold: float, full_report: bool
) -> dict[str, Any]:
    """Compute COCO's average precision, and with `full_report` the errors at the display threshold."""
    ap_metrics = average_precision.compute_ap_metrics(names, targets, detections, full_report)
    if not full_report:
        return ap_metrics
    errors = error_analysis.compute_error_metrics(names, targets, detections, display_threshold)
    per_class = {name: errors["per_class"][name] | ap_metrics["per_class"][name] for name in names}
    return ap_metrics | errors | {"per_class": per_class}


def _format_prediction(names: tuple[str, ...], detections: np.ndarray, display_threshold: float) -> dict[str, Any]:
    """Return the classes in an image, the highest score of each class, and the objects in order of their scores."""
    rows = detections.astype(float).tolist()
    objects = [
        {"label": names[int(label)], "score": score, "box": box}
        for *box, score, label in rows
        if score >= display_threshold and label >= 0
    ]
    max_scores = {
        name: max((row[4] for row in rows if row[5] == index), default=0.0) for index, name in enumerate(names)
    }
    present = [name for name in names if any(item["label"] == name for item in objects)]
    return {
        "label": present,
        "score": [max_scores[name] for name in present],
        "scores": max_scores,
        "objects": objects,
    }
