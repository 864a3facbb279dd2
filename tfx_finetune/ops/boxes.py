"""Layer 1: geometry of boxes in `keras.ops`: the same in a loss, in an exported graph, and beside files that lack it.

A box is left, top, right and bottom, (..., 4), in any unit; one of no width or height has no area.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops


class Grid(NamedTuple):
    """The places at which a dense detector answers.

    Attributes:
        side: Of the square picture, in pixels.
        centres: Of the cells of all levels, x and y in pixels, from the finest level on and row by row, (A, 2).
        strides: Pixels from a cell to the next, (A, 1).
    """

    side: int
    centers: np.ndarray
    strides: np.ndarray


@functools.lru_cache(maxsize=64)
def make_grid(count: int, levels: tuple[str, ...]) -> Grid:
    """The places of a pyramid over a square picture, whose side is a multiple of the finest stride; their count says
    how large it is. A level of stride s has ceil(side / s) cells to a side, the last of which may lie half outside.

    Args:
        count: A, the cells of all levels.
        levels: Names such as P3: cells of 2^3 pixels.

    Raises:
        ValueError: No such picture has so many cells.
    """
    steps = [2 ** int(level[1:]) for level in levels]
    side, numbers = 0, [0] * len(steps)
    while sum(number**2 for number in numbers) < count:
        side += steps[0]
        numbers = [-(-side // step) for step in steps]
    if count != sum(number**2 for number in numbers):
        raise ValueError(f"no square picture of a multiple of {steps[0]} pixels has {count} cells at {levels}")
    centres, strides = [], []
    for step, number in zip(steps, numbers, strict=True):
        along = (np.arange(number, dtype=np.float32) + 0.5) * step
        x, y = np.meshgrid(along, along)
        centres.append(np.stack([x.ravel(), y.ravel()], -1))
        strides.append(np.full((x.size, 1), step, np.float32))
    return Grid(side, np.concatenate(centres), np.concatenate(strides))


def distances_to_boxes(points: Any, distances: Any) -> Any:
    """Boxes (..., 4) whose sides are so far (..., 4) to the left, top, right and bottom of points (..., 2)."""
    corners = ops.subtract(points, distances[..., :2]), ops.add(points, distances[..., 2:])
    return ops.concatenate(corners, axis=-1)


def boxes_to_distances(points: Any, boxes: Any) -> Any:
    """How far the sides of boxes (..., 4) are from points (..., 2): what `around` takes, negative from outside."""
    return ops.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def area(boxes: Any) -> Any:
    """Areas of boxes, (...)."""
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _intersection_and_union(first: Any, second: Any) -> tuple[Any, Any]:
    """Areas of the intersection and of the union of boxes that broadcast against one another, (...)."""
    corners = ops.maximum(first[..., :2], second[..., :2]), ops.minimum(first[..., 2:], second[..., 2:])
    inside = area(ops.concatenate(corners, axis=-1))
    return inside, area(first) + area(second) - inside


def iou(first: Any, second: Any) -> Any:
    """Intersection over union of boxes that broadcast against one another, (...); 0 where neither has an area."""
    inside, union = _intersection_and_union(first, second)
    return inside / ops.maximum(union, 1e-9)


def pairwise_iou(first: Any, second: Any) -> Any:
    """Intersection over union of each of (..., n, 4) with each of (..., m, 4): (..., n, m)."""
    return iou(ops.expand_dims(first, -2), ops.expand_dims(second, -3))


def _enclosing_box(first: Any, second: Any) -> Any:
    """The smallest box around both."""
    low, high = ops.minimum(first[..., :2], second[..., :2]), ops.maximum(first[..., 2:], second[..., 2:])
    return ops.concatenate([low, high], axis=-1)


def giou(first: Any, second: Any) -> Any:
    """Generalized intersection over union, -1 to 1 (Rezatofighi et al., arXiv 1902.09630): less by the share of the
    smallest box around both that neither fills, so that boxes apart are drawn together.
    """
    inside, union = _intersection_and_union(first, second)
    around_both = area(_enclosing_box(first, second))
    return inside / ops.maximum(union, 1e-9) - (around_both - union) / ops.maximum(around_both, 1e-9)


def diou(first: Any, second: Any) -> Any:
    """Distance intersection over union, -1 to 1 (Zheng et al., arXiv 1911.08287): less by the squared distance of the
    centres over that of the corners of the smallest box around both.
    """
    hull = _enclosing_box(first, second)
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    diagonal = ops.sum(ops.square(hull[..., 2:] - hull[..., :2]), -1)
    return iou(first, second) - ops.sum(ops.square(apart), -1) / ops.maximum(diagonal, 1e-9)


def cluster_nms(boxes: Any, classes: Any, iou_threshold: Any) -> Any:
    """Which boxes greedy non-maximum suppression keeps: all that overlap no better kept one of their class by more.

    Cluster-NMS (Zheng et al., arXiv 2005.03572): a box is kept if no kept better one overlaps it, for all boxes at
    once, until nothing changes. Each round settles one more box of a chain of overlapping ones at least, so that the
    end is what the greedy algorithm gives.

    Args:
        boxes: The best first, (batch, n, 4).
        classes: Of each, (batch, n).
        threshold: Intersection over union above which the worse of two goes, one for all or (batch, 1, 1).

    Returns:
        Booleans, (batch, n).
    """
    count = boxes.shape[1]
    same = ops.expand_dims(classes, 2) == ops.expand_dims(classes, 1)
    better = np.triu(np.ones((count, count), bool), 1)
    over = ops.cast((pairwise_iou(boxes, boxes) > iou_threshold) & same & better, "float32")

    def again(known: Any, before: Any) -> tuple[Any, Any]:
        gone = ops.matmul(ops.expand_dims(known, 1), over)
        return ops.cast(ops.squeeze(gone, 1) < 0.5, "float32"), known

    start = ops.ones_like(ops.cast(classes, "float32"))
    found, _ = ops.while_loop(
        lambda known, before: ops.any(known != before),
        again,
        (start, ops.zeros_like(start)),
        maximum_iterations=count,
    )
    return found > 0.5


def batched_nms(
    scores: Any,
    boxes: Any,
    *,
    score_threshold: Any,
    iou_threshold: Any,
    max_detections: int,
    pre_nms_topk: int,
    max_per_image: Any = None,
) -> tuple[Any, Any, Any]:
    """The objects that a dense detector found, the surest first, none twice.

    Args:
        scores: Probabilities, (batch, A, classes).
        boxes: One a place, (batch, A, 4).
        least: Score below which nothing is found, one for all or (batch,).
        overlap: Intersection over union above which the worse of two objects of a class goes, one for all or (batch,).
        most: K, the objects that are kept.
        candidates: The surest pairs of place and class that are looked at.
        first: How many of the K there are at most, (batch,); None for all.

    Returns:
        Boxes (batch, K, 4), scores (batch, K) and classes as int32 (batch, K); where there are fewer objects, box and
        score are 0 and the class is -1.
    """
    places, count = scores.shape[1:]
    pre_nms_topk = min(pre_nms_topk, places * count)
    score, at = ops.top_k(ops.reshape(scores, (-1, places * count)), pre_nms_topk)
    label = at % count
    box = ops.take_along_axis(boxes, ops.expand_dims(at // count, -1), axis=1)
    score_threshold = ops.reshape(ops.cast(score_threshold, score.dtype), (-1, 1))
    iou_threshold = ops.reshape(ops.cast(iou_threshold, box.dtype), (-1, 1, 1))
    there = cluster_nms(box, ops.where(score >= score_threshold, label, -1), iou_threshold) & (score >= score_threshold)
    score, order = ops.top_k(ops.where(there, score, -1.0), min(max_detections, pre_nms_topk))
    box = ops.take_along_axis(box, ops.expand_dims(order, -1), axis=1)
    label = ops.cast(ops.take_along_axis(label, order, axis=1), "int32")
    there = score > 0
    if max_per_image is not None:
        there = there & (ops.arange(there.shape[1]) < ops.reshape(max_per_image, (-1, 1)))
    padding = [[0, 0], [0, max(0, max_detections - pre_nms_topk)]]
    box = ops.pad(ops.where(ops.expand_dims(there, -1), box, 0.0), [*padding, [0, 0]])
    label = ops.pad(ops.where(there, label, -1), padding, constant_values=-1)
    return box, ops.pad(ops.where(there, score, 0.0), padding), label
