"""The loss of a dense detector: which places learn which objects is decided by what they say already."""

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
    """What places learn.

    wanted: The score of each class, (batch, A, classes). box: That of the place's object, (batch, A, 4). worth: How
    much it counts, (batch, A), 0 where there is no object. ignored: Whether a crowd is there, (batch, A).
    """

    target_scores: Any
    target_boxes: Any
    alignment: Any
    ignore_mask: Any


class TaskAlignedAssigner(NamedTuple):
    """Which places learn an object: those of the highest score^alpha * IoU^beta, `places` of them."""

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0


def assign(target: Any, scores: Any, pred_boxes: Any, grid: boxes.Grid, assigner: TaskAlignedAssigner) -> AssignResult:
    """Task-aligned assignment (Feng et al., TOOD, arXiv 2108.07755, section 3.2).

    A place can learn the objects that it lies in; an object so small that it lies between places, that of its cell at
    every level. Of several objects it learns the one that it overlaps most. The score wanted of it is its alignment,
    scaled so that an object's best place has to say its IoU.

    Args:
        target: Boxes in pixels, class and kind, (batch, M, 6).
        scores: Probabilities, (batch, A, classes).
        found: Boxes in pixels, (batch, A, 4).
        grid: The places.
        rule: Which of them learn.
    """
    most = target.shape[1]
    used = ops.max(ops.where(target[..., 5] > 0, np.arange(1, most + 1), 0))

    def among(size: int, *larger: int) -> AssignResult:
        few = functools.partial(_assign, target[:, :size], scores, pred_boxes, grid, assigner)
        return ops.cond(used <= size, few, functools.partial(among, *larger)) if larger else few()

    # Most rows are padding, which took most of the time: 0.7 of 0.8 s of a batch of 16 pictures of 320 pixels.
    return among(*(size for size in _TARGET_SIZES if size < most), most)


def _assign(target: Any, scores: Any, pred_boxes: Any, grid: boxes.Grid, assigner: TaskAlignedAssigner) -> AssignResult:
    given, there = target[..., :4], target[..., 5] == OBJECT
    label = ops.one_hot(ops.cast(target[..., 4], "int32"), scores.shape[-1]) * ops.cast(there, "float32")[..., None]
    overlap = boxes.pairwise_iou(given, pred_boxes)
    alignment = ops.matmul(label, ops.swapaxes(scores, 1, 2)) ** assigner.alpha * overlap**assigner.beta
    alignment = ops.where(_inside_mask(given, grid, grid.strides[:, 0] / 2), alignment, 0.0)  # (batch, M, A)
    least = ops.top_k(alignment, min(assigner.topk, len(grid.centers)))[0][..., -1:]
    chosen = (alignment >= least) & (alignment > 0)
    most = ops.argmax(ops.where(chosen, overlap, -1.0), axis=1)
    own = np.arange(target.shape[1])[:, None] == ops.cast(most, "int32")[:, None, :]
    chosen = ops.cast(chosen & own, "float32")
    best = ops.max(alignment * chosen, axis=-1, keepdims=True)
    share = alignment * chosen / ops.where(best > 0, best, 1.0)
    worth = share * ops.max(overlap * chosen, axis=-1, keepdims=True)
    crowd = _inside_mask(given, grid, 0.0) & (target[..., 5] == CROWD)[..., None]
    return AssignResult(
        target_scores=ops.matmul(ops.swapaxes(worth, 1, 2), label),
        target_boxes=ops.matmul(ops.swapaxes(chosen, 1, 2), given),
        alignment=ops.sum(worth, axis=1),
        ignore_mask=ops.any(crowd, axis=1),
    )


def _inside_mask(gt_boxes: Any, grid: boxes.Grid, min_half_side: Any) -> Any:
    """Which places lie in which boxes, (batch, M, A), a box counting `least` pixels to each side from its middle."""
    middle, half = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2, (gt_boxes[..., 2:] - gt_boxes[..., :2]) / 2
    found = True
    for axis in (0, 1):
        apart = ops.abs(grid.centers[:, axis] - middle[..., axis : axis + 1])
        found = (apart <= ops.maximum(half[..., axis : axis + 1], min_half_side)) & found
    return found


class DetectionLoss(keras.losses.Loss):
    """Quality focal loss of classes, whose target is how well a place's box fits (Li et al., GFL, arXiv 2006.04388,
    equation 2), and GIoU or DIoU loss of boxes, weighted by the same.

    Both are divided by the mean over the batch of what is wanted of its pictures, at least 1: so every object counts
    alike, and what a picture without objects counts does not depend on how many others have.

    Args:
        levels: Of the pyramid.
        rule: Which places learn an object.
        gamma: How much less what is nearly right counts.
        box: The loss of boxes.
        box_weight: How much it counts beside that of classes.
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
        """Returns the loss of each picture, (batch,), of target (batch, M, 6) and logits (batch, A, classes + 4)."""
        target, logits = ops.cast(target, "float32"), ops.cast(logits, "float32")
        grid = boxes.make_grid(logits.shape[1], self.levels)
        classes, found = logits[..., :-4], boxes.distances_to_boxes(grid.centers, logits[..., -4:] * grid.strides)
        scores = ops.sigmoid(classes)
        said = ops.stop_gradient(scores), ops.stop_gradient(found)
        wanted, box, worth, ignored = map(ops.stop_gradient, assign(target, *said, grid, self.assigner))
        focus = ops.abs(wanted - scores) ** self.gamma
        wrong = ops.sum(focus * (ops.softplus(classes) - wanted * classes), axis=-1)
        wrong = ops.sum(ops.where(ignored & (worth == 0), 0.0, wrong), axis=-1)
        apart = ops.sum(worth * (1 - self.iou_fn(found, box)), axis=-1)
        return (wrong + self.box_weight * apart) / ops.maximum(ops.mean(ops.sum(worth, axis=-1)), 1.0)
