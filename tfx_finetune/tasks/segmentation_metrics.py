"""Scores of segmentation masks: intersection over union, pixel and class accuracies, and boundary F1."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfx_finetune.tasks.classification_metrics import precision_recall_f1, safe_divide
from tfx_finetune.types.localization import IGNORE_INDEX

_BOUNDARY_TOLERANCE = 0.0075  # fraction of the image diagonal (Csurka et al., BMVC 2013)
_BATCH_SIZE = 64


def compute_segmentation_metrics(
    names: tuple[str, ...], truth: np.ndarray, predicted: np.ndarray, full_report: bool = True
) -> dict[str, Any]:
    """Compute all scores of a segmenter; pixels with `IGNORE_INDEX` in the truth do not count.

    Args:
        names: Class names.
        truth: uint8 (n, side, side). Masks.
        predicted: uint8 (n, side, side). Predicted masks.
        full_report: bool. If False, boundary_f1 is left out, which takes more than ten times as long as all other
            scores. Default True.

    Returns:
        miou (mean over the classes that occur in truth or prediction), pixel_accuracy, mean_class_accuracy (mean recall
        of the classes that occur in the truth), iou_weighted (by the pixels of the truth), boundary_f1 (Csurka et al.,
        What is a good evaluation measure for semantic segmentation?, BMVC 2013: mean over images and the classes in
        them, with a tolerance of 0.75 % of the diagonal), `per_class` (iou, precision, recall, f1, which is Dice, and
        support in pixels), and `confusion` (pixels; rows are the truth).

    Examples:
        >>> truth, predicted = np.uint8([[[0, 0], [1, 255]]]), np.uint8([[[0, 1], [1, 1]]])
        >>> compute_segmentation_metrics(("sky", "tree"), truth, predicted)["miou"]
        0.5
    """
    confusions = _iter_confusions(len(names), truth, predicted)
    confusion = sum((batch.sum(0) for batch in confusions), np.zeros((1,), np.int64))
    true_positives, predicted_counts, support = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    union = predicted_counts + support - true_positives
    iou = safe_divide(true_positives, union)
    precision, recall, f1 = precision_recall_f1(true_positives, predicted_counts, support)
    scores = {
        "miou": iou[union > 0].mean() if union.any() else 0.0,
        "pixel_accuracy": true_positives.sum() / max(support.sum(), 1),
        "mean_class_accuracy": recall[support > 0].mean() if support.any() else 0.0,
        "iou_weighted": (iou * support).sum() / max(support.sum(), 1),
    }
    if full_report:
        scores["boundary_f1"] = compute_boundary_f1(len(names), truth, predicted)
    rows = zip(names, precision, recall, f1, support, iou, strict=True)
    return {name: float(value) for name, value in scores.items()} | {
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n), "iou": float(i)}
            for name, p, r, f, n, i in rows
        },
        "confusion": confusion.tolist(),
    }


def compute_miou_per_image(classes: int, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Compute the mean IoU of each image over the classes that occur in it, (n,); 1 for an image without labels.

    Args:
        classes: int. Number of classes.
        truth: uint8 (n, side, side). Masks.
        predicted: uint8 (n, side, side). Predicted masks.
    """
    batches = []
    for confusion in _iter_confusions(classes, truth, predicted):
        true_positives = np.diagonal(confusion, axis1=1, axis2=2)
        union = confusion.sum(1) + confusion.sum(2) - true_positives
        num_classes = (union > 0).sum(-1)
        iou_sum = safe_divide(true_positives, union).sum(-1)
        batches.append(np.where(num_classes > 0, iou_sum / np.maximum(num_classes, 1), 1.0))
    return np.concatenate(batches)


def compute_boundary_f1(classes: int, truth: np.ndarray, predicted: np.ndarray) -> float:
    """Compute the mean boundary F1 of the images that have a boundary; 1 if none has.

    See `compute_segmentation_metrics` for the definition and the arguments.
    """
    offsets = _make_disc_offsets(_BOUNDARY_TOLERANCE * float(np.hypot(*truth.shape[1:])))
    total, count = np.zeros(len(truth)), np.zeros(len(truth))
    for start in range(0, len(truth), _BATCH_SIZE):
        rows = slice(start, start + _BATCH_SIZE)
        valid = truth[rows] != IGNORE_INDEX
        for label in range(classes):
            gt_outline = _extract_outline(truth[rows] == label, valid)
            pred_outline = _extract_outline((predicted[rows] == label) & valid, valid)
            precision, has_pred = _match_outline(pred_outline, gt_outline, offsets)
            recall, has_gt = _match_outline(gt_outline, pred_outline, offsets)
            f1 = np.where(precision + recall > 0, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0.0)
            total[rows] += np.where(has_gt | has_pred, f1, 0.0)
            count[rows] += has_gt | has_pred
    return float((total[count > 0] / count[count > 0]).mean()) if count.any() else 1.0


def _iter_confusions(classes: int, truth: np.ndarray, predicted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the confusion matrices of batches of images, int64 (batch, classes, classes)."""
    cells = classes * classes
    for start in range(0, len(truth), _BATCH_SIZE):
        batch_truth, batch_predicted = truth[start : start + _BATCH_SIZE], predicted[start : start + _BATCH_SIZE]
        valid = batch_truth != IGNORE_INDEX
        image = np.broadcast_to(np.arange(len(batch_truth), dtype=np.int64)[:, None, None], batch_truth.shape)
        index = image[valid] * cells + batch_truth[valid].astype(np.int64) * classes + batch_predicted[valid]
        yield np.bincount(index, minlength=len(batch_truth) * cells).reshape(-1, classes, classes)


def _extract_outline(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask with a labeled neighbor (of four) outside the mask, bool (n, height, width)."""
    other = valid & ~mask
    has_other_neighbor = np.zeros_like(mask)
    has_other_neighbor[:, 1:] |= other[:, :-1]
    has_other_neighbor[:, :-1] |= other[:, 1:]
    has_other_neighbor[:, :, 1:] |= other[:, :, :-1]
    has_other_neighbor[:, :, :-1] |= other[:, :, 1:]
    return mask & has_other_neighbor


def _match_outline(
    outline: np.ndarray, other: np.ndarray, offsets: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fraction of each outline that is near the other one, and whether there is an outline, (n,) each.

    Args:
        outline: bool (n, height, width).
        other: bool (n, height, width).
        offsets: Offsets (down, right) in pixels of all points that count as near.
    """
    count = outline.sum((1, 2))
    near = np.zeros_like(other)
    height, width = other.shape[1:]
    for down, right in offsets:
        target = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
        source = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
        near[:, target[0], target[1]] |= other[:, source[0], source[1]]
    return (outline & near).sum((1, 2)) / np.maximum(count, 1), count > 0


def _make_disc_offsets(radius: float) -> list[tuple[int, int]]:
    """Return all offsets (down, right) within the radius.

    Examples:
        >>> _make_disc_offsets(1.0)
        [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    """
    distances = range(-int(radius), int(radius) + 1)
    return [(down, right) for down in distances for right in distances if np.hypot(down, right) <= radius]
