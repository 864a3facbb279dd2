"""Postprocessing of a detector's dense outputs, in NumPy only. Every detector bundle has a copy of this file.

    scores, boxes = outputs["objects/scores"][0], outputs["objects/boxes"][0]
    for box, score, label in zip(*postprocess_detections(scores, boxes)): ...

The SavedModel of the bundle ends with the same algorithm. The code is short enough to port to Kotlin, Swift or C++.
"""

import numpy as np


def postprocess_detections(
    scores: np.ndarray,
    boxes: np.ndarray,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the objects of one image by greedy non-maximum suppression per class.

    Args:
        scores: float (anchors, classes). Probability of each class at each anchor point.
        boxes: float (anchors, 4). Left, top, right and bottom as fractions of the square model input.
        score_threshold: float, 0 to 1. Minimum score of an object. Default 0.05.
        iou_threshold: float, 0 to 1. If two boxes of one class overlap by more than this intersection over union, the
            box with the lower score is removed. Default 0.6.
        max_detections: int >= 1. Maximum number of objects. Default 100.

    Returns:
        boxes (n, 4) within 0 to 1, scores (n,) in decreasing order, and classes (n,) as line indices of labels.txt.

    Examples:
        >>> scores = np.array([[0.9], [0.8], [0.7]])
        >>> boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 1, 1]])
        >>> [values.tolist() for values in postprocess_detections(scores, boxes)]
        [[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], [0.9, 0.7], [0, 0]]
    """
    anchor, label = np.nonzero(scores >= score_threshold)
    score = scores[anchor, label]
    order = np.argsort(-score, kind="stable")[: 5 * max_detections]
    anchor, label, score = anchor[order], label[order], score[order]
    box = np.clip(boxes[anchor], 0, 1)
    selection: list[int] = []
    for index in range(len(score)):
        rivals = [other for other in selection if label[other] == label[index]]
        if len(selection) < max_detections and not (rivals and iou(box[index], box[rivals]).max() > iou_threshold):
            selection.append(index)
    return box[selection], score[selection], label[selection]


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of a box with other boxes.

    Args:
        box: (4,). Left, top, right and bottom in any unit.
        others: (n, 4), in the same unit.

    Returns:
        (n,), 0 to 1.

    Examples:
        >>> iou(np.array([0, 0, 2, 2]), np.array([[0, 0, 2, 2], [0, 0, 2, 1], [2, 2, 3, 3]])).tolist()
        [1.0, 0.5, 0.0]
    """
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersection = np.prod(np.maximum(high - low, 0), -1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], -1) - intersection
    return intersection / np.maximum(union, 1e-9)
