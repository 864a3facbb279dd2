"""Detection: which objects are in a picture, and where."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.tasks import average_precision, error_analysis
from tfx_finetune.tasks.assigner import BoxLoss, DetectionLoss, TaskAlignedAssigner
from tfx_finetune.tasks.dense_head import make_dense_head
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
    """Any number of objects a picture, each with its class and box: a dense detector without anchors.

    At every place of a pyramid it says which object is there and how far its four sides are (FCOS: Tian et al., arXiv
    1904.01355), by a light head as NanoDet-Plus has it. Which places learn an object is decided by what they say
    already (TOOD, arXiv 2108.07755), and a class's score says how well the box fits (GFL, arXiv 2006.04388). The side
    of the pictures has to be a multiple of the finest level's stride: of 8 pixels with P3.

    Args:
        labels: The classes and their training counts.
        column: The sample's column with the objects.
        neck: What the levels of the pyramid go through first.
        levels: Of the backbone's pyramid, from fine to coarse: P3 has a place every 2^3 pixels.
        dim: Channels of the head, 1 or more.
        depth: Convolutions of each of its towers, 1 or more.
        max_objects: Most objects of a picture, 1 or more; one with more is left out.
        places: How many learn an object, 1 or more.
        alpha: How much a place's score counts there, 0 or more.
        beta: How much the overlap of its box counts there, 0 or more.
        gamma: How much less the loss of classes makes of what is nearly right, 0 or more.
        box: The loss of boxes.
        box_weight: How much it counts beside that of classes, 0 or more.
        min_score: Score below which nothing is found, 0 to 1.
        nms: Intersection over union above which the worse of two objects of one class goes, 0 to 1.
        max_detections: Most objects found in a picture, 1 or more.
        threshold: Score from which an object is answered, and counts as found where answers are counted, 0 to 1.
    """
    counts = {"dim": dim, "depth": depth, "max_objects": max_objects, "places": topk}
    _check_ranges(counts | {"max_detections": max_detections}, 1, None)
    _check_ranges({"alpha": alpha, "beta": beta, "gamma": gamma, "box_weight": box_weight}, 0, None)
    _check_ranges({"min_score": score_threshold, "nms": iou_threshold, "threshold": display_threshold}, 0, 1)
    levels, names = _check_levels(levels), labels.names
    decoding = DetectionPostprocess(
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
        decode=decoding.decode,
        compute_metrics=lambda targets, found, full_report=True: _compute_metrics(
            names, targets, found, display_threshold, full_report
        ),
        per_sample_score=lambda targets, found: error_analysis.compute_f1_per_image(targets, found, display_threshold),
        format_prediction=lambda found: _format_prediction(names, found, display_threshold),
        postprocess=decoding.postprocess,
        localization=make_detection_target(
            names, levels, max_objects, decoding.postprocess_with_names, NMS_INPUTS, display_threshold
        ),
    )


def _check_ranges(options: Mapping[str, float], min_value: float, max_value: float | None) -> None:
    for name, value in options.items():
        if not (value >= min_value and (max_value is None or value <= max_value)):
            allowed = f"{min_value} or more" if max_value is None else f"{min_value} to {max_value}"
            raise UserError(f"{name} of detect is out of range", got=value, expected=allowed)


def _check_levels(levels: tuple) -> tuple[str, ...]:
    """Levels of a pyramid, from fine to coarse."""
    known = [f"P{level}" for level in range(2, 8)]
    if not levels or list(levels) != sorted(set(levels) & set(known)):
        raise UserError("levels of detect are not such", got=levels, expected=f"from fine to coarse, of {known}")
    return tuple(levels)


def _compute_metrics(
    names: tuple[str, ...], targets: np.ndarray, detections: np.ndarray, display_threshold: float, full_report: bool
) -> dict[str, Any]:
    """COCO's scores, and of the whole those of the objects that would be answered."""
    ranked = average_precision.compute_ap_metrics(names, targets, detections, full_report)
    if not full_report:
        return ranked
    answered = error_analysis.compute_error_metrics(names, targets, detections, display_threshold)
    return ranked | answered | {"per_class": {n: answered["per_class"][n] | ranked["per_class"][n] for n in names}}


def _format_prediction(names: tuple[str, ...], detections: np.ndarray, display_threshold: float) -> dict[str, Any]:
    """The classes of the objects of a picture, the highest score of each, and the objects, the surest first."""
    objects = [
        {"label": names[int(label)], "score": score, "box": box}
        for *box, score, label in detections.astype(float).tolist()
        if score >= display_threshold and label >= 0
    ]
    highest = {
        name: max((row[4] for row in detections.tolist() if row[5] == at), default=0.0) for at, name in enumerate(names)
    }
    present = [name for name in names if any(each["label"] == name for each in objects)]
    return {
        "label": present,
        "score": [highest[name] for name in present],
        "scores": highest,
        "objects": objects,
    }
