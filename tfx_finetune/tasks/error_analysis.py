"""Which detections are right at one threshold, and what is wrong with the others."""

from typing import Any, NamedTuple

import numpy as np

from tfx_finetune.tasks.assigner import CROWD, OBJECT
from tfx_finetune.tasks.precision_recall import precision_recall_f1

IOU_THRESHOLD, BACKGROUND_IOU = 0.5, 0.1
"""Intersection over union from which a detection is right, and below which it is of nothing."""
MATCH_TYPES = ("right", "class", "localization", "both", "duplicate", "background", "crowd")
"""What a detection can be: all between the first and the last are wrong."""


class MatchResult(NamedTuple):
    """What became of one picture.

    said: Of each detection, its place in `KINDS`, -1 below the threshold, (K,). of: The row of the target that it is
    right or nearly right about, -1 for none, (K,). missed: Marks objects that no detection is right about, (M,).
    unseen: Those of them of which none is nearly right either: that has another class or place, (M,).
    """

    match_type: np.ndarray
    matched_gt: np.ndarray
    false_negatives: np.ndarray
    missed: np.ndarray


def match_detections(target: np.ndarray, detections: np.ndarray, threshold: float) -> MatchResult:
    """Judges the detections of one picture, the surest first, as TIDE does (Bolya et al., arXiv 2008.08115, section 2).

    Right: overlaps an object of its class, that no surer one has, by 0.5. Duplicate: a surer one has it. Class: an
    object of another class. Localization: overlaps one of its class by 0.1. Both: one of another class. Background:
    none. Crowd: most of it lies in a crowd of its class, which is neither right nor wrong.

    Args:
        target: Boxes in pixels, class and kind, (M, 6).
        found: Boxes in pixels, score and class, (K, 6).
        threshold: Score from which a detection counts.
    """
    said, of = np.full(len(detections), -1), np.full(len(detections), -1)
    overlap, inside = compute_overlaps(detections[:, :4], target[:, :4])
    there, crowd = target[:, 5] == OBJECT, target[:, 5] == CROWD
    free = there.copy()
    counts = (detections[:, 5] >= 0) & (detections[:, 4] >= threshold)
    for row in np.argsort(-detections[:, 4], kind="stable"):
        if not counts[row]:
            continue
        same = target[:, 4] == detections[row, 5]
        said[row], of[row] = _classify_detection(overlap[row], there & same, there & ~same, free)
        if said[row] == MATCH_TYPES.index("right"):
            free[of[row]] = False
        elif (crowd & same & (inside[row] >= IOU_THRESHOLD)).any():
            said[row], of[row] = MATCH_TYPES.index("crowd"), -1
    near = np.isin(
        np.arange(len(target)), of[np.isin(said, (MATCH_TYPES.index("class"), MATCH_TYPES.index("localization")))]
    )
    return MatchResult(said, of, free, free & ~near)


def _classify_detection(overlap: np.ndarray, same: np.ndarray, other: np.ndarray, free: np.ndarray) -> tuple[int, int]:
    """What a detection is, by its overlaps (M,) with objects of its class and of others, and the object's row."""
    for kind, rows, least in (
        ("right", same & free, IOU_THRESHOLD),
        ("duplicate", same, IOU_THRESHOLD),
        ("class", other, IOU_THRESHOLD),
        ("localization", same, BACKGROUND_IOU),
        ("both", other, BACKGROUND_IOU),
    ):
        if rows.any() and (best := np.where(rows, overlap, -1).argmax()) >= 0 and overlap[best] >= least:
            return MATCH_TYPES.index(kind), int(best)
    return MATCH_TYPES.index("background"), -1


def compute_overlaps(pred_boxes: np.ndarray, gt_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections of boxes (K, 4) with boxes (M, 4) over the union, and over the area of the first, (K, M)."""
    low = np.maximum(pred_boxes[:, None, :2], gt_boxes[None, :, :2])
    high = np.minimum(pred_boxes[:, None, 2:], gt_boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    mine, theirs = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(-1) for boxes in (pred_boxes, gt_boxes))
    union = mine[:, None] + theirs - shared
    return shared / np.maximum(union, 1e-9), shared / np.maximum(mine, 1e-9)[:, None]


def compute_f1_per_image(targets: np.ndarray, detections: np.ndarray, threshold: float) -> np.ndarray:
    """F1 of the detections of each picture, (n,): 1 for one that rightly has none.

    Args:
        targets: (n, M, 6), see `matched`.
        found: (n, K, 6).
        threshold: Score from which a detection counts.
    """
    values = []
    for target, mine in zip(targets, detections, strict=True):
        judged = match_detections(target, mine, threshold)
        right, missed = int((judged.match_type == 0).sum()), int(judged.false_negatives.sum())
        wrong = int(((judged.match_type > 0) & (judged.match_type < len(MATCH_TYPES) - 1)).sum())
        values.append(_compute_rates(right, wrong, missed)["f1"] if right + wrong + missed else 1.0)
    return np.array(values, np.float64)


def compute_error_metrics(
    names: tuple[str, ...], targets: np.ndarray, detections: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Precision, recall and F1 of the detections from a threshold on, and what is wrong with the others.

    Returns:
        precision, recall and f1 over all objects; `error_<kind>`, how many detections of each wrong kind, and
        `error_missed`, how many objects without any that is nearly right, there are for each object; and `per_class`:
        precision, recall, f1 and support.
    """
    kinds, (objects, missed), unseen = np.zeros((len(MATCH_TYPES), len(names))), np.zeros((2, len(names))), 0
    for target, mine in zip(targets, detections, strict=True):
        judged = match_detections(target, mine, threshold)
        counted = judged.match_type >= 0
        np.add.at(kinds, (judged.match_type[counted], mine[counted, 5].astype(int)), 1)
        np.add.at(objects, target[target[:, 5] == OBJECT, 4].astype(int), 1)
        np.add.at(missed, target[judged.false_negatives, 4].astype(int), 1)
        unseen += int(judged.missed.sum())
    right, wrong, total = kinds[0], kinds[1:-1].sum(0), max(objects.sum(), 1)
    rows = zip(names, right, wrong, missed, objects, strict=True)
    return {
        **_compute_rates(right.sum(), wrong.sum(), missed.sum()),
        **{f"error_{kind}": float(kinds[at].sum() / total) for at, kind in enumerate(MATCH_TYPES[1:-1], 1)},
        "error_missed": float(unseen / total),
        "per_class": {name: {**_compute_rates(*counts), "support": int(n)} for name, *counts, n in rows},
    }


def _compute_rates(true_positives: float, false_positives: float, false_negatives: float) -> dict[str, float]:
    names = ("precision", "recall", "f1")
    return dict(
        zip(
            names,
            map(
                float,
                precision_recall_f1(true_positives, true_positives + false_positives, true_positives + false_negatives),
            ),
            strict=True,
        )
    )
