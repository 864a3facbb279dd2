"""Loss of a dense detector with task-aligned label assignment."""

import functools
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from tfx_finetune.ops import boxes

BoxLoss = Literal["giou", "diou"]
OBJECT, CROWD = 1, 2
"""Kinds of a target's rows; 0 is padding."""
_TARGET_SIZES = (8, 32)


class AssignResult(NamedTuple):
    """Training targets of the anchor points.

    Attributes:
        target_scores: (batch, A, classes). Target of each class score.
        target_boxes: (batch, A, 4). Box of the assigned object in pixels.
        alignment: (batch, A). Weight of the anchor point; 0 without an object.
        ignore_mask: bool (batch, A). True inside a crowd.
    """

    target_scores: Any
    target_boxes: Any
    alignment: Any
    ignore_mask: Any


class TaskAlignedAssigner(NamedTuple):
    """Options of the assignment: each object gets the `topk` anchor points with the highest score^alpha * IoU^beta.

    Attributes:
        topk: int >= 1. Number of anchor points per object. Default 13.
        alpha: float >= 0. Exponent of the class score. Default 1.
        beta: float >= 0. Exponent of the IoU. Default 6.
    """

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0


def assign(target: Any, scores: Any, pred_boxes: Any, grid: boxes.Grid, assigner: TaskAlignedAssigner) -> AssignResult:
    """Assign objects to anchor points (Feng et al., TOOD, arXiv 2108.07755, section 3.2).

    An anchor point can get the objects that contain it. A small object contains at least the point of its cell at each
    level. Of several objects, the point gets the one with the highest IoU. The target score is the alignment, scaled so
    that the best point of an object has the object's highest IoU as its target.

    Args:
        target: (batch, M, 6). Boxes in pixels, class and kind.
        scores: (batch, A, classes). Predicted probabilities.
        pred_boxes: (batch, A, 4). Predicted boxes in pixels.
        grid: Anchor points.
        assigner: Options.
    """
    max_objects = target.shape[1]
    num_rows = ops.max(ops.where(target[..., 5] > 0, np.arange(1, max_objects + 1), 0))

    def assign_first_rows(size: int, *larger_sizes: int) -> AssignResult:
        assign_rows = functools.partial(_assign, target[:, :size], scores, pred_boxes, grid, assigner)
        if not larger_sizes:
            return assign_rows()
        return ops.cond(num_rows <= size, assign_rows, functools.partial(assign_first_rows, *larger_sizes))

    # Most rows are padding, which took most of the time: 0.7 of 0.8 s of a batch of 16 images of 320 pixels.
    return assign_first_rows(*(size for size in _TARGET_SIZES if size < max_objects), max_objects)


def _assign(target: Any, scores: Any, pred_boxes: Any, grid: boxes.Grid, assigner: TaskAlignedAssigner) -> AssignResult:
    gt_boxes, is_object = target[..., :4], target[..., 5] == OBJECT
    label = ops.one_hot(ops.cast(target[..., 4], "int32"), scores.shape[-1]) * ops.cast(is_object, "float32")[..., None]
    iou = boxes.pairwise_iou(gt_boxes, pred_boxes)
    alignment = ops.matmul(label, ops.swapaxes(scores, 1, 2)) ** assigner.alpha * iou**assigner.beta
    alignment = ops.where(_inside_mask(gt_boxes, grid, grid.strides[:, 0] / 2), alignment, 0.0)  # (batch, M, A)
    min_alignment = ops.top_k(alignment, min(assigner.topk, len(grid.centers)))[0][..., -1:]
    candidates = (alignment >= min_alignment) & (alignment > 0)
    best_object = ops.argmax(ops.where(candidates, iou, -1.0), axis=1)
    is_best_object = np.arange(target.shape[1])[:, None] == ops.cast(best_object, "int32")[:, None, :]
    assigned = ops.cast(candidates & is_best_object, "float32")
    max_alignment = ops.max(alignment * assigned, axis=-1, keepdims=True)
    normalized = alignment * assigned / ops.where(max_alignment > 0, max_alignment, 1.0)
    normalized = normalized * ops.max(iou * assigned, axis=-1, keepdims=True)
    in_crowd = _inside_mask(gt_boxes, grid, 0.0) & (target[..., 5] == CROWD)[..., None]
    return AssignResult(
        target_scores=ops.matmul(ops.swapaxes(normalized, 1, 2), label),
        target_boxes=ops.matmul(ops.swapaxes(assigned, 1, 2), gt_boxes),
        alignment=ops.sum(normalized, axis=1),
        ignore_mask=ops.any(in_crowd, axis=1),
    )


def _inside_mask(gt_boxes: Any, grid: boxes.Grid, min_half_side: Any) -> Any:
    """Return which anchor points lie in which boxes, bool (batch, M, A).

    Args:
        gt_boxes: (batch, M, 4). Boxes in pixels.
        grid: Anchor points.
        min_half_side: float or (A,). Smaller boxes are enlarged to this distance from their center, in pixels.
    """
    center, half_side = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2, (gt_boxes[..., 2:] - gt_boxes[..., :2]) / 2
    inside = True
    for axis in (0, 1):
        distance = ops.abs(grid.centers[:, axis] - center[..., axis : axis + 1])
        inside = (distance <= ops.maximum(half_side[..., axis : axis + 1], min_half_side)) & inside
    return inside


class DetectionLoss(keras.losses.Loss):
    """Quality focal loss of the classes plus GIoU or DIoU loss of the boxes.

    The target of a class score is the alignment of the anchor point (Li et al., GFL, arXiv 2006.04388, equation 2),
    which also weights its box loss. Both losses are divided by the mean alignment sum of an image over the batch, at
    least 1. So each object has the same weight, and the loss of an image without objects does not depend on the number
    of other images that have some.

    Args:
        levels: Pyramid levels of the head, from fine to coarse.
        assigner: Options of the assignment.
        gamma: float >= 0. Exponent that reduces the loss of nearly correct class scores. Default 2.
        box_loss: `giou` or `diou`. Default `giou`.
        box_weight: float >= 0. Weight of the box loss relative to the class loss. Default 2.
    """

    def __init__(
        self,
        levels: tuple[str, ...],
        assigner: TaskAlignedAssigner = TaskAlignedAssigner(),  # noqa: B008 (a tuple)
        gamma: float = 2.0,
        box_loss: BoxLoss = "giou",
        box_weight: float = 2.0,
    ) -> None:
        super().__init__(name="detection", reduction="mean_with_sample_weight")
        self.levels, self.assigner, self.gamma, self.box_weight = levels, assigner, gamma, box_weight
        self.iou_fn = boxes.giou if box_loss == "giou" else boxes.diou

    def call(self, target: Any, logits: Any) -> Any:
        """Compute the loss of each image, (batch,), from target (batch, M, 6) and logits (batch, A, classes + 4)."""
        target, logits = ops.cast(target, "float32"), ops.cast(logits, "float32")
        grid = boxes.make_grid(logits.shape[1], self.levels)
        class_logits = logits[..., :-4]
        pred_boxes = boxes.distances_to_boxes(grid.centers, logits[..., -4:] * grid.strides)
        scores = ops.sigmoid(class_logits)
        predictions = ops.stop_gradient(scores), ops.stop_gradient(pred_boxes)
        target_scores, target_boxes, alignment, ignore_mask = map(
            ops.stop_gradient, assign(target, *predictions, grid, self.assigner)
        )
        focal_weight = ops.abs(target_scores - scores) ** self.gamma
        class_loss = ops.sum(focal_weight * (ops.softplus(class_logits) - target_scores * class_logits), axis=-1)
        class_loss = ops.sum(ops.where(ignore_mask & (alignment == 0), 0.0, class_loss), axis=-1)
        box_loss = ops.sum(alignment * (1 - self.iou_fn(pred_boxes, target_boxes)), axis=-1)
        mean_alignment = ops.maximum(ops.mean(ops.sum(alignment, axis=-1)), 1.0)
        return (class_loss + self.box_weight * box_loss) / mean_alignment
