"""Detection errors at one score threshold, by type (TIDE)."""

from typing import Any, NamedTuple

import numpy as np

from tfx_finetune.tasks.classification_metrics import precision_recall_f1
from tfx_finetune.tasks.detection_loss import CROWD, OBJECT

IOU_THRESHOLD, BACKGROUND_IOU = 0.5, 0.1
"""Intersection over union of a correct detection, at least, and of a background detection, at most."""
MATCH_TYPES = ("correct", "class", "localization", "both", "duplicate", "background", "crowd")
"""Types of detections; all between the first and the last are errors."""


class MatchResult(NamedTuple):
    """Detections of one image matched to its ground truth.

    Attributes:
        match_type: int (K,). Index in `MATCH_TYPES` of each detection; -1 below the threshold.
        matched_gt: int (K,). Row of the target that the detection matches, fully or nearly; -1 for none.
        false_negatives: bool (M,). True for objects without a correct detection.
        missed: bool (M,). True for false negatives that no class or localization error matches either.
    """

    match_type: np.ndarray
    matched_gt: np.ndarray
    false_negatives: np.ndarray
    missed: np.ndarray


def match_detections(target: np.ndarray, detections: np.ndarray, threshold: float) -> MatchResult:
    """Classify the detections of one image in order of their scores (TIDE: Bolya et al., arXiv 2008.08115, section 2).

    - correct: overlaps an unmatched object of its class by an IoU of 0.5 or more.
    - duplicate: overlaps an object that a detection with a higher score matches.
    - class: overlaps an object of another class.
    - localization: overlaps an object of its class by an IoU of 0.1 to 0.5.
    - both: overlaps an object of another class by an IoU of 0.1 to 0.5.
    - background: overlaps no object by 0.1.
    - crowd: lies by more than half in a crowd of its class; counts as neither correct nor wrong.

    Args:
        target: (M, 6). Boxes in pixels, class and kind.
        detections: (K, 6). Boxes in pixels, score and class.
        threshold: float, 0 to 1. Minimum score of a detection that counts.

    Examples:
        >>> target = np.array([[0.0, 0, 10, 10, 0, OBJECT]])
        >>> detections = np.array([[0.0, 0, 10, 9, 0.9, 0], [0, 0, 9, 10, 0.8, 0], [20, 20, 30, 30, 0.7, 0]])
        >>> [MATCH_TYPES[index] for index in match_detections(target, detections, 0.5).match_type]
        ['correct', 'duplicate', 'background']
    """
    match_type, matched_gt = np.full(len(detections), -1), np.full(len(detections), -1)
    iou, inside = compute_overlaps(detections[:, :4], target[:, :4])
    is_object, is_crowd = target[:, 5] == OBJECT, target[:, 5] == CROWD
    unmatched = is_object.copy()
    counts = (detections[:, 5] >= 0) & (detections[:, 4] >= threshold)
    for row in np.argsort(-detections[:, 4], kind="stable"):
        if not counts[row]:
            continue
        same_class = target[:, 4] == detections[row, 5]
        match_type[row], matched_gt[row] = _classify_detection(
            iou[row], is_object & same_class, is_object & ~same_class, unmatched
        )
        if match_type[row] == MATCH_TYPES.index("correct"):
            unmatched[matched_gt[row]] = False
        elif (is_crowd & same_class & (inside[row] >= IOU_THRESHOLD)).any():
            match_type[row], matched_gt[row] = MATCH_TYPES.index("crowd"), -1
    near_types = MATCH_TYPES.index("class"), MATCH_TYPES.index("localization")
    nearly_matched = np.isin(np.arange(len(target)), matched_gt[np.isin(match_type, near_types)])
    return MatchResult(match_type, matched_gt, unmatched, unmatched & ~nearly_matched)


def _classify_detection(
    iou: np.ndarray, same_class: np.ndarray, other_class: np.ndarray, unmatched: np.ndarray
) -> tuple[int, int]:
    """Return the index in `MATCH_TYPES` of a detection, and the row of the matched object or -1.

    Args:
        iou: (M,). Overlap with each row of the target.
        same_class: bool (M,). Objects of the detection's class.
        other_class: bool (M,). Objects of other classes.
        unmatched: bool (M,). Objects without a correct detection.
    """
    for name, rows, min_iou in (
        ("correct", same_class & unmatched, IOU_THRESHOLD),
        ("duplicate", same_class, IOU_THRESHOLD),
        ("class", other_class, IOU_THRESHOLD),
        ("localization", same_class, BACKGROUND_IOU),
        ("both", other_class, BACKGROUND_IOU),
    ):
        if rows.any() and (best := np.where(rows, iou, -1).argmax()) >= 0 and iou[best] >= min_iou:
            return MATCH_TYPES.index(name), int(best)
    return MATCH_TYPES.index("background"), -1


def compute_overlaps(pred_boxes: np.ndarray, gt_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute intersection over union, and intersection over the area of the predicted box, (K, M) each.

    Args:
        pred_boxes: (K, 4).
        gt_boxes: (M, 4).

    Examples:
        >>> [float(value[0, 0]) for value in compute_overlaps(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 5, 2]]))]
        [0.2, 0.5]
    """
    low = np.maximum(pred_boxes[:, None, :2], gt_boxes[None, :, :2])
    high = np.minimum(pred_boxes[:, None, 2:], gt_boxes[None, :, 2:])
    intersection = np.maximum(high - low, 0).prod(-1)
    pred_area, gt_area = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(-1) for boxes in (pred_boxes, gt_boxes))
    union = pred_area[:, None] + gt_area - intersection
    return intersection / np.maximum(union, 1e-9), intersection / np.maximum(pred_area, 1e-9)[:, None]


def compute_f1_per_image(targets: np.ndarray, detections: np.ndarray, threshold: float) -> np.ndarray:
    """Compute the F1 score of the detections of each image, (n,); 1 for an image without objects and detections.

    Args:
        targets: (n, M, 6), see `match_detections`.
        detections: (n, K, 6).
        threshold: float, 0 to 1. Minimum score of a detection that counts.
    """
    values = []
    for target, image_detections in zip(targets, detections, strict=True):
        result = match_detections(target, image_detections, threshold)
        correct, missed = int((result.match_type == 0).sum()), int(result.false_negatives.sum())
        wrong = int(((result.match_type > 0) & (result.match_type < len(MATCH_TYPES) - 1)).sum())
        values.append(_compute_rates(correct, wrong, missed)["f1"] if correct + wrong + missed else 1.0)
    return np.array(values, np.float64)


def compute_error_metrics(
    names: tuple[str, ...], targets: np.ndarray, detections: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Compute precision, recall and F1 at a score threshold, and the number of errors per object by type.

    Args:
        names: Class names.
        targets: (n, M, 6), see `match_detections`.
        detections: (n, K, 6).
        threshold: float, 0 to 1. Minimum score of a detection that counts.

    Returns:
        precision, recall and f1 over all objects; `error_<type>`, the number of wrong detections of each type divided
        by the number of objects; `error_missed`, the fraction of missed objects; and `per_class`: precision, recall,
        f1 and support.
    """
    type_counts = np.zeros((len(MATCH_TYPES), len(names)))
    (objects, false_negatives), num_missed = np.zeros((2, len(names))), 0
    for target, image_detections in zip(targets, detections, strict=True):
        result = match_detections(target, image_detections, threshold)
        counts = result.match_type >= 0
        np.add.at(type_counts, (result.match_type[counts], image_detections[counts, 5].astype(int)), 1)
        np.add.at(objects, target[target[:, 5] == OBJECT, 4].astype(int), 1)
        np.add.at(false_negatives, target[result.false_negatives, 4].astype(int), 1)
        num_missed += int(result.missed.sum())
    correct, wrong, total = type_counts[0], type_counts[1:-1].sum(0), max(objects.sum(), 1)
    rows = zip(names, correct, wrong, false_negatives, objects, strict=True)
    return {
        **_compute_rates(correct.sum(), wrong.sum(), false_negatives.sum()),
        **{f"error_{name}": float(type_counts[index].sum() / total) for index, name in enumerate(MATCH_TYPES[1:-1], 1)},
        "error_missed": float(num_missed / total),
        "per_class": {name: {**_compute_rates(*counts), "support": int(n)} for name, *counts, n in rows},
    }


def _compute_rates(true_positives: float, false_positives: float, false_negatives: float) -> dict[str, float]:
    rates = precision_recall_f1(true_positives, true_positives + false_positives, true_positives + false_negatives)
    return dict(zip(("precision", "recall", "f1"), map(float, rates), strict=True))
