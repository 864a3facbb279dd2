"""Detection: which objects are in a picture, and where."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.tasks import average_precision, error_analysis
from tfx_finetune.tasks.assigner import Alignment, BoxLoss, DetectionLoss
from tfx_finetune.tasks.dense_head import dense
from tfx_finetune.tasks.detection_targets import boxed
from tfx_finetune.tasks.postprocess import LIMITS, Decoding
from tfx_finetune.types.components import TASKS, Labels, Task


@TASKS.register
def detect(
    labels: Labels,
    /,
    *,
    column: str = "objects",
    neck: Spec = Spec("bifpn", (), {"dim": 96}),  # noqa: B008 (frozen)
    levels: tuple = ("P3", "P4", "P5"),
    dim: int = 96,
    depth: int = 2,
    max_objects: int = 100,
    places: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    gamma: float = 2.0,
    box: BoxLoss = "giou",
    box_weight: float = 2.0,
    min_score: float = 0.05,
    nms: float = 0.6,
    max_detections: int = 100,
    threshold: float = 0.3,
) -> Task:
    """Any number of objects a picture, each with its class and box: a dense detector without anchors.

    At every place of a pyramid it says which object is there and how far its four sides are (FCOS: Tian et al., arXiv
    1904.01355), by a light head as NanoDet-Plus has it. Which places learn an object is decided by what they say
    already (TOOD, arXiv 2108.07755), and a class's score says how well the box fits (GFL, arXiv 2006.04388). The side
    of the pictures has to be a multiple of the finest level's stride: of 8 pixels with P3.

    Args:
        labels: The classes and their training counts.
        column: The sample's column with the objects.
        neck: What the levels of the pyramid go through first.
        levels: Of the backbone's pyramid, from fine to coarse: P3 has a place every 2^3 pixels.
        dim: Channels of the head, 1 or more.
        depth: Convolutions of each of its towers, 1 or more.
        max_objects: Most objects of a picture, 1 or more; one with more is left out.
        places: How many learn an object, 1 or more.
        alpha: How much a place's score counts there, 0 or more.
        beta: How much the overlap of its box counts there, 0 or more.
        gamma: How much less the loss of classes makes of what is nearly right, 0 or more.
        box: The loss of boxes.
        box_weight: How much it counts beside that of classes, 0 or more.
        min_score: Score below which nothing is found, 0 to 1.
        nms: Intersection over union above which the worse of two objects of one class goes, 0 to 1.
        max_detections: Most objects found in a picture, 1 or more.
        threshold: Score from which an object is answered, and counts as found where answers are counted, 0 to 1.
    """
    counts = {"dim": dim, "depth": depth, "max_objects": max_objects, "places": places}
    _check(counts | {"max_detections": max_detections}, 1, None)
    _check({"alpha": alpha, "beta": beta, "gamma": gamma, "box_weight": box_weight}, 0, None)
    _check({"min_score": min_score, "nms": nms, "threshold": threshold}, 0, 1)
    levels, names = _levels(levels), labels.names
    decoding = Decoding(names, levels, least=min_score, overlap=nms, most=max_detections)
    return Task(
        labels=labels,
        column=column,
        single=False,
        encode=lambda objects: objects,
        weight=lambda target: tf.constant(1.0),
        head=dense(len(names), neck, levels, dim, depth),
        loss=DetectionLoss(levels, Alignment(places, alpha, beta), gamma, box, box_weight),
        metrics=list,
        score="map",
        decode=decoding.decode,
        scores=lambda targets, found, whole=True: _scores(names, targets, found, threshold, whole),
        correct=lambda targets, found: error_analysis.f1(targets, found, threshold),
        predict=lambda found: _said(names, found, threshold),
        read=decoding.read,
        places=boxed(names, levels, max_objects, decoding.answers, LIMITS, threshold),
    )


def _check(options: Mapping[str, float], least: float, most: float | None) -> None:
    for name, value in options.items():
        if not (value >= least and (most is None or value <= most)):
            allowed = f"{least} or more" if most is None else f"{least} to {most}"
            raise UserError(f"{name} of detect is out of range", received=value, allowed=allowed)


def _levels(levels: tuple) -> tuple[str, ...]:
    """Levels of a pyramid, from fine to coarse."""
    known = [f"P{level}" for level in range(2, 8)]
    if not levels or list(levels) != sorted(set(levels) & set(known)):
        raise UserError("levels of detect are not such", received=levels, allowed=f"from fine to coarse, of {known}")
    return tuple(levels)


def _scores(
    names: tuple[str, ...], targets: np.ndarray, found: np.ndarray, threshold: float, whole: bool
) -> dict[str, Any]:
    """COCO's scores, and of the whole those of the objects that would be answered."""
    ranked = average_precision.scores(names, targets, found, whole)
    if not whole:
        return ranked
    answered = error_analysis.scores(names, targets, found, threshold)
    return ranked | answered | {"per_class": {n: answered["per_class"][n] | ranked["per_class"][n] for n in names}}


def _said(names: tuple[str, ...], found: np.ndarray, threshold: float) -> dict[str, Any]:
    """The classes of the objects of a picture, the highest score of each, and the objects, the surest first."""
    objects = [
        {"label": names[int(label)], "score": score, "box": box}
        for *box, score, label in found.astype(float).tolist()
        if score >= threshold and label >= 0
    ]
    highest = {
        name: max((row[4] for row in found.tolist() if row[5] == at), default=0.0) for at, name in enumerate(names)
    }
    present = [name for name in names if any(each["label"] == name for each in objects)]
    return {
        "label": present,
        "score": [highest[name] for name in present],
        "scores": highest,
        "objects": objects,
    }
