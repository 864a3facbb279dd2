"""What a program makes of the dense answers of a detector's file, in NumPy alone: a bundle has a copy of this file.

    scores, boxes = outputs["objects/scores"][0], outputs["objects/boxes"][0]
    for box, score, label in zip(*detections(scores, boxes)): ...

It is as the SavedModel ends its own answers, and short enough to be written anew in Kotlin, Swift or C++.
"""

import numpy as np


def postprocess_detections(
    scores: np.ndarray,
    boxes: np.ndarray,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects of one picture, the surest first, none twice.

    Args:
        scores: Probability of each class at each place, (places, classes).
        boxes: Left, top, right, bottom of each place, in shares of the square that went in, (places, 4).
        min_score: Score below which nothing is found.
        nms: Intersection over union above which the worse of two objects of one class goes.
        max_detections: Most objects.

    Returns:
        Boxes (n, 4), scores (n,) and classes (n,), places in labels.txt.
    """
    place, label = np.nonzero(scores >= score_threshold)
    score = scores[place, label]
    order = np.argsort(-score, kind="stable")[: 5 * max_detections]
    place, label, score = place[order], label[order], score[order]
    box = np.clip(boxes[place], 0, 1)
    kept: list[int] = []
    for at in range(len(score)):
        rivals = [other for other in kept if label[other] == label[at]]
        if len(kept) < max_detections and not (rivals and iou(box[at], box[rivals]).max() > iou_threshold):
            kept.append(at)
    return box[kept], score[kept], label[kept]


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) and others (n, 4), (n,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), -1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], -1) - both
    return both / np.maximum(area, 1e-9)
