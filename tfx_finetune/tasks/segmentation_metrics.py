"""How well masks agree: intersection over union, accuracies of pixels and classes, and how near outlines are."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfx_finetune.tasks.precision_recall import precision_recall_f1, safe_divide
from tfx_finetune.types.localization import IGNORE_INDEX

_BOUNDARY_TOLERANCE = 0.0075  # of a picture's diagonal, as Csurka et al. have it
_BATCH_SIZE = 64


def compute_segmentation_metrics(
    names: tuple[str, ...], truth: np.ndarray, predicted: np.ndarray, full_report: bool = True
) -> dict[str, Any]:
    """Every score of a segmenter; what is untold in the truth counts nowhere.

    Args:
        names: Class names.
        truth: Masks, uint8 (n, side, side).
        found: Masks that were predicted, of the same shape.
        whole: Whether boundary_f1 is among them, which takes more than ten times the time of all others.

    Returns:
        miou (mean over the classes that occur in either), pixel_accuracy, mean_class_accuracy (mean recall of the
        classes that occur in the truth), iou_weighted (by the pixels of the truth), boundary_f1 (Csurka et al., What is
        a good evaluation measure for semantic segmentation?, BMVC 2013: of a picture, the mean over the classes that
        occur in it, of outlines that count as met within 0.75 % of the diagonal), `per_class` (iou, precision, recall,
        f1, which is Dice, and support, its pixels in the truth), and `confusion` (pixels; rows are the truth).
    """
    confusion = sum((each.sum(0) for each in _iter_confusions(len(names), truth, predicted)), np.zeros((1,), np.int64))
    hits, said, support = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    union = said + support - hits
    iou, (precision, recall, f1) = safe_divide(hits, union), precision_recall_f1(hits, said, support)
    scores = {
        "miou": iou[union > 0].mean() if union.any() else 0.0,
        "pixel_accuracy": hits.sum() / max(support.sum(), 1),
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
    """Mean intersection over union of each picture, over the classes that occur in it, (n,); 1 where none is told."""
    parts = []
    for each in _iter_confusions(classes, truth, predicted):
        hits = np.diagonal(each, axis1=1, axis2=2)
        union = each.sum(1) + each.sum(2) - hits
        occur = (union > 0).sum(-1)
        parts.append(np.where(occur > 0, safe_divide(hits, union).sum(-1) / np.maximum(occur, 1), 1.0))
    return np.concatenate(parts)


def compute_boundary_f1(classes: int, truth: np.ndarray, predicted: np.ndarray) -> float:
    """The score of outlines, the mean over pictures that have some; 1 where none has; see `segmentation_scores`."""
    offsets = _make_disc_offsets(_BOUNDARY_TOLERANCE * float(np.hypot(*truth.shape[1:])))
    total, count = np.zeros(len(truth)), np.zeros(len(truth))
    for start in range(0, len(truth), _BATCH_SIZE):
        rows = slice(start, start + _BATCH_SIZE)
        told = truth[rows] != IGNORE_INDEX
        for place in range(classes):
            ours, theirs = (
                _extract_outline(truth[rows] == place, told),
                _extract_outline((predicted[rows] == place) & told, told),
            )
            precision, any_theirs = _match_outline(theirs, ours, offsets)
            recall, any_ours = _match_outline(ours, theirs, offsets)
            f1 = np.where(precision + recall > 0, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0.0)
            occurs = any_ours | any_theirs
            total[rows] += np.where(occurs, f1, 0.0)
            count[rows] += occurs
    return float((total[count > 0] / count[count > 0]).mean()) if count.any() else 1.0


def _iter_confusions(classes: int, truth: np.ndarray, predicted: np.ndarray) -> Iterator[np.ndarray]:
    """Told pixels by picture, class, and class that was found, (some, classes, classes), few pictures at a time."""
    cells = classes * classes
    for start in range(0, len(truth), _BATCH_SIZE):
        ours, theirs = truth[start : start + _BATCH_SIZE], predicted[start : start + _BATCH_SIZE]
        told = ours != IGNORE_INDEX
        picture = np.broadcast_to(np.arange(len(ours), dtype=np.int64)[:, None, None], ours.shape)
        index = picture[told] * cells + ours[told].astype(np.int64) * classes + theirs[told]
        yield np.bincount(index, minlength=len(ours) * cells).reshape(-1, classes, classes)


def _extract_outline(member: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pixels, (n, height, width), of a class beside whose four neighbours one is told and of another class."""
    other = valid & ~member
    beside = np.zeros_like(member)
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    beside[:, :, 1:] |= other[:, :, :-1]
    beside[:, :, :-1] |= other[:, :, 1:]
    return member & beside


def _match_outline(
    outline: np.ndarray, other: np.ndarray, offsets: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each outline that is near the other one, and whether there is an outline, (n,) each."""
    count = outline.sum((1, 2))
    near = np.zeros_like(other)
    height, width = other.shape[1:]
    for down, right in offsets:
        to = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
        of = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
        near[:, to[0], to[1]] |= other[:, of[0], of[1]]
    return (outline & near).sum((1, 2)) / np.maximum(count, 1), count > 0


def _make_disc_offsets(radius: float) -> list[tuple[int, int]]:
    """Steps down and to the right that lead no farther than the radius."""
    reach = range(-int(radius), int(radius) + 1)
    return [(down, right) for down in reach for right in reach if np.hypot(down, right) <= radius]
