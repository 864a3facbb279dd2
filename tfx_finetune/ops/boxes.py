"""Box operations in `keras.ops`: conversions, overlaps and non-maximum suppression.

They run in losses, in exported graphs and in NumPy code alike. A box is (left, top, right, bottom) in any unit, shape
(..., 4). A box without width or height has no area.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops


class Grid(NamedTuple):
    """Anchor points of a dense detector, one at the center of each cell of all pyramid levels.

    Attributes:
        side: Side of the square image in pixels.
        centers: float32 (A, 2). x and y of the cell centers in pixels, from the finest level on, row by row.
        strides: float32 (A, 1). Stride of the level in pixels.
    """

    side: int
    centers: np.ndarray
    strides: np.ndarray


@functools.lru_cache(maxsize=64)
def make_grid(count: int, levels: tuple[str, ...]) -> Grid:
    """Make the anchor points of a pyramid over a square image.

    The number of cells determines the side of the image, which is a multiple of the finest stride. A level of stride s
    has ceil(side / s) cells along each side, so that the last cell may lie half outside the image.

    Args:
        count: int. Number A of cells of all levels.
        levels: Level names such as P3, which has cells of 2^3 pixels.

    Raises:
        ValueError: If no image side gives `count` cells.

    Examples:
        >>> grid = make_grid(5, ("P3", "P4"))
        >>> grid.side, grid.centers.tolist()
        (16, [[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0], [8.0, 8.0]])
    """
    level_strides = [2 ** int(level[1:]) for level in levels]
    side, cells_per_side = 0, [0] * len(level_strides)
    while sum(cells**2 for cells in cells_per_side) < count:
        side += level_strides[0]
        cells_per_side = [-(-side // stride) for stride in level_strides]
    if count != sum(cells**2 for cells in cells_per_side):
        raise ValueError(f"no square image of a multiple of {level_strides[0]} pixels has {count} cells at {levels}")
    centers, strides = [], []
    for stride, cells in zip(level_strides, cells_per_side, strict=True):
        positions = (np.arange(cells, dtype=np.float32) + 0.5) * stride
        x, y = np.meshgrid(positions, positions)
        centers.append(np.stack([x.ravel(), y.ravel()], -1))
        strides.append(np.full((x.size, 1), stride, np.float32))
    return Grid(side, np.concatenate(centers), np.concatenate(strides))


def distances_to_boxes(points: Any, distances: Any) -> Any:
    """Convert distances from points to the box sides into boxes.

    Args:
        points: (..., 2). x and y.
        distances: (..., 4). Distances to the left, top, right and bottom side, in the unit of the points.

    Returns:
        Boxes (..., 4).
    """
    corners = ops.subtract(points, distances[..., :2]), ops.add(points, distances[..., 2:])
    return ops.concatenate(corners, axis=-1)


def boxes_to_distances(points: Any, boxes: Any) -> Any:
    """Convert boxes into distances from points to the box sides; the inverse of `distances_to_boxes`.

    Args:
        points: (..., 2). x and y.
        boxes: (..., 4), in the unit of the points.

    Returns:
        Distances (..., 4) to the left, top, right and bottom side; negative if the point lies beyond the side.
    """
    return ops.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def area(boxes: Any) -> Any:
    """Compute the areas (...) of boxes (..., 4); 0 if right < left or bottom < top.

    Examples:
        >>> area(np.array([[0.0, 0, 2, 3], [2, 0, 0, 3]])).numpy().tolist()
        [6.0, 0.0]
    """
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _intersection_and_union(first: Any, second: Any) -> tuple[Any, Any]:
    """Compute the areas (...) of intersection and union of broadcastable boxes."""
    corners = ops.maximum(first[..., :2], second[..., :2]), ops.minimum(first[..., 2:], second[..., 2:])
    intersection = area(ops.concatenate(corners, axis=-1))
    return intersection, area(first) + area(second) - intersection


def iou(first: Any, second: Any) -> Any:
    """Compute the intersection over union of boxes.

    Args:
        first: (..., 4).
        second: (..., 4), broadcastable to `first`.

    Returns:
        (...), 0 to 1; 0 if neither box has an area.

    Examples:
        >>> round(float(iou(np.array([0.0, 0, 4, 4]), np.array([2.0, 0, 6, 4]))), 4)
        0.3333
    """
    intersection, union = _intersection_and_union(first, second)
    return intersection / ops.maximum(union, 1e-9)


def pairwise_iou(first: Any, second: Any) -> Any:
    """Compute the intersection over union of every pair of boxes.

    Args:
        first: (..., n, 4).
        second: (..., m, 4).

    Returns:
        (..., n, m), 0 to 1.
    """
    return iou(ops.expand_dims(first, -2), ops.expand_dims(second, -3))


def _enclosing_box(first: Any, second: Any) -> Any:
    """Return the smallest box that contains both boxes."""
    low, high = ops.minimum(first[..., :2], second[..., :2]), ops.maximum(first[..., 2:], second[..., 2:])
    return ops.concatenate([low, high], axis=-1)


def giou(first: Any, second: Any) -> Any:
    """Compute the generalized intersection over union (Rezatofighi et al., arXiv 1902.09630).

    GIoU is IoU minus the fraction of the enclosing box that neither box covers, so that it has a gradient for boxes
    that do not overlap.

    Args:
        first: (..., 4).
        second: (..., 4), broadcastable to `first`.

    Returns:
        (...), -1 to 1.
    """
    intersection, union = _intersection_and_union(first, second)
    enclosing_area = area(_enclosing_box(first, second))
    uncovered = (enclosing_area - union) / ops.maximum(enclosing_area, 1e-9)
    return intersection / ops.maximum(union, 1e-9) - uncovered


def diou(first: Any, second: Any) -> Any:
    """Compute the distance intersection over union (Zheng et al., arXiv 1911.08287).

    DIoU is IoU minus the squared distance of the centers divided by the squared diagonal of the enclosing box.

    Args:
        first: (..., 4).
        second: (..., 4), broadcastable to `first`.

    Returns:
        (...), -1 to 1.
    """
    enclosing = _enclosing_box(first, second)
    center_offset = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    squared_diagonal = ops.sum(ops.square(enclosing[..., 2:] - enclosing[..., :2]), -1)
    return iou(first, second) - ops.sum(ops.square(center_offset), -1) / ops.maximum(squared_diagonal, 1e-9)


def cluster_nms(boxes: Any, classes: Any, iou_threshold: Any) -> Any:
    """Apply greedy non-maximum suppression per class to a batch (Cluster-NMS, Zheng et al., arXiv 2005.03572).

    A box is suppressed if a box of its class that precedes it and is not suppressed overlaps it by more than the
    threshold. All boxes are updated at once until nothing changes. Each iteration settles at least one more box of a
    chain of overlapping boxes, so that the result equals that of the greedy algorithm.

    Args:
        boxes: (batch, n, 4), in order of decreasing score.
        classes: (batch, n). Class of each box.
        iou_threshold: float, 0 to 1, or (batch, 1, 1).

    Returns:
        bool (batch, n). True for the boxes that are not suppressed.
    """
    count = boxes.shape[1]
    is_same_class = ops.expand_dims(classes, 2) == ops.expand_dims(classes, 1)
    precedes = np.triu(np.ones((count, count), bool), 1)
    overlaps = ops.cast((pairwise_iou(boxes, boxes) > iou_threshold) & is_same_class & precedes, "float32")

    def update(keep: Any, previous: Any) -> tuple[Any, Any]:
        num_suppressors = ops.matmul(ops.expand_dims(keep, 1), overlaps)
        return ops.cast(ops.squeeze(num_suppressors, 1) < 0.5, "float32"), keep

    keep_all = ops.ones_like(ops.cast(classes, "float32"))
    keep, _ = ops.while_loop(
        lambda keep, previous: ops.any(keep != previous),
        update,
        (keep_all, ops.zeros_like(keep_all)),
        maximum_iterations=count,
    )
    return keep > 0.5


def batched_nms(
    scores: Any,
    boxes: Any,
    *,
    score_threshold: Any,
    iou_threshold: Any,
    max_detections: int,
    pre_nms_topk: int,
) -> tuple[Any, Any, Any]:
    """Select the objects of a dense detector's outputs by non-maximum suppression per class.

    Args:
        scores: float (batch, A, classes). Probability of each class at each anchor point.
        boxes: float (batch, A, 4). Box of each anchor point.
        score_threshold: float, 0 to 1, or (batch,). Minimum score of an object.
        iou_threshold: float, 0 to 1, or (batch,). If two boxes of one class overlap by more than this intersection
            over union, the box with the lower score is removed.
        max_detections: int K >= 1. Number of objects in the result.
        pre_nms_topk: int >= 1. Number of pairs of anchor point and class with the highest scores that enter the
            suppression.

    Returns:
        boxes (batch, K, 4), scores (batch, K) in decreasing order, and classes int32 (batch, K). An image with fewer
        objects is padded with box 0, score 0 and class -1.
    """
    num_anchors, num_classes = scores.shape[1:]
    pre_nms_topk = min(pre_nms_topk, num_anchors * num_classes)
    score, index = ops.top_k(ops.reshape(scores, (-1, num_anchors * num_classes)), pre_nms_topk)
    label = index % num_classes
    box = ops.take_along_axis(boxes, ops.expand_dims(index // num_classes, -1), axis=1)
    score_threshold = ops.reshape(ops.cast(score_threshold, score.dtype), (-1, 1))
    iou_threshold = ops.reshape(ops.cast(iou_threshold, box.dtype), (-1, 1, 1))
    is_candidate = score >= score_threshold
    keep = cluster_nms(box, ops.where(is_candidate, label, -1), iou_threshold) & is_candidate
    score, order = ops.top_k(ops.where(keep, score, -1.0), min(max_detections, pre_nms_topk))
    box = ops.take_along_axis(box, ops.expand_dims(order, -1), axis=1)
    label = ops.cast(ops.take_along_axis(label, order, axis=1), "int32")
    keep = score > 0
    padding = [[0, 0], [0, max(0, max_detections - pre_nms_topk)]]
    box = ops.pad(ops.where(ops.expand_dims(keep, -1), box, 0.0), [*padding, [0, 0]])
    label = ops.pad(ops.where(keep, label, -1), padding, constant_values=-1)
    return box, ops.pad(ops.where(keep, score, 0.0), padding), label


def keep_first_objects(boxes: Any, scores: Any, classes: Any, max_objects: Any) -> tuple[Any, Any, Any]:
    """Replace all objects after the first of each image by padding.

    Args:
        boxes: (batch, K, 4). Result of `batched_nms`.
        scores: (batch, K).
        classes: int (batch, K).
        max_objects: int (batch,). Number of objects of each image to keep.

    Returns:
        boxes, scores and classes of the same shapes, with box 0, score 0 and class -1 after the kept objects.
    """
    keep = ops.arange(scores.shape[1]) < ops.reshape(ops.cast(max_objects, "int32"), (-1, 1))
    return ops.where(ops.expand_dims(keep, -1), boxes, 0.0), ops.where(keep, scores, 0.0), ops.where(keep, classes, -1)
