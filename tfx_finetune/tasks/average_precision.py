"""Average precision of detections as COCO defines it.

https://cocodataset.org/#detection-eval: precision at 101 recalls, over intersections over union of 0.5 to 0.95. A class
without objects has none; what is matched to a crowd is neither right nor wrong. faster-coco-eval gives the numbers of
pycocotools, in a fifth of its time (500 pictures of 100 detections, 80 classes: 2.4 and 11 seconds).
"""

import contextlib
import io
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from tfx_finetune.tasks.assigner import CROWD

_AREA_NAMES = ("small", "medium", "large")


def run_coco_eval(
    classes: int, targets: np.ndarray, detections: np.ndarray, full_report: bool = True
) -> dict[str, Any]:
    """COCO's own tables.

    Args:
        classes: How many there are.
        targets: Boxes in pixels, class and kind, (n, M, 6).
        found: Boxes in pixels, score and class, (n, K, 6); -1 is no class.
        whole: Whether by size and number of detections, which takes twice the time.

    Returns:
        `precision` (10 overlaps, 101 recalls, classes, sizes: all, small, medium, large, detections: 1, 10, K) and
        `recall` (10, classes, 4, 3), -1 for classes without objects. Where not `whole`, of all sizes and K alone.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": at} for at in range(1, len(targets) + 1)],
            "categories": [{"id": at} for at in range(1, classes + 1)],
            "annotations": _make_annotations(targets),
        }
        truth.createIndex()
        said = _make_result_rows(detections)
        run = COCOeval_faster(truth, truth.loadRes(said) if len(said) else COCO(), "bbox")
        run.params.imgIds = list(range(1, len(targets) + 1))
        run.params.catIds = list(range(1, classes + 1))
        run.params.maxDets = [1, 10, max(detections.shape[1], 11)]
        if not full_report:
            run.params.maxDets = run.params.maxDets[-1:]
            run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.evaluate()
        run.accumulate()
    return run.eval


def _make_annotations(targets: np.ndarray) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for picture, row in zip(*np.nonzero(targets[..., 5]), strict=True):
        left, top, right, bottom, label, kind = targets[picture, row].astype(float).tolist()
        found.append(
            {
                "id": len(found) + 1,  # 0 would be taken for no match
                "image_id": int(picture) + 1,
                "category_id": int(label) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(kind == CROWD),
            }
        )
    return found


def _make_result_rows(detections: np.ndarray) -> np.ndarray:
    """Detections as COCO's table of picture, left, top, width, height, score and class, (rows, 7)."""
    picture, row = np.nonzero(detections[..., 5] >= 0)
    box, score, label = np.split(detections[picture, row].astype(np.float64), [4, 5], axis=-1)
    return np.concatenate([picture[:, None] + 1, box[:, :2], box[:, 2:] - box[:, :2], score, label + 1], -1)


def compute_ap_metrics(
    names: tuple[str, ...], targets: np.ndarray, detections: np.ndarray, full_report: bool = True
) -> dict[str, Any]:
    """COCO's scores of detections; 0 where there is nothing to be found.

    Returns:
        map (the mean over classes and overlaps), ap50, ap75, and `per_class`: the average precision over all overlaps.
        Of the `whole`, map by size of the objects (below 32^2, below 96^2 pixels of the prepared picture, above) where
        there are some, average recall of 1, 10 and all detections a picture, and `curves`: of each class that occurs,
        the precision at recalls of 0, 0.01, ... 1 at an overlap of 0.5, (101,), whose mean over all is ap50, to four
        digits.
    """
    tables = run_coco_eval(len(names), targets, detections, full_report)
    precision, recall = tables["precision"], tables["recall"]
    named = {"map": precision[..., 0, -1], "ap50": precision[0, ..., 0, -1], "ap75": precision[5, ..., 0, -1]}
    each = {name: {"average_precision": _mean_valid(precision[:, :, at, 0, -1])} for at, name in enumerate(names)}
    more: dict[str, Any] = {"per_class": each}
    if full_report:
        sizes = {f"map_{size}": precision[..., at, -1] for at, size in enumerate(_AREA_NAMES, 1)}
        named |= {name: values for name, values in sizes.items() if (values > -1).any()}
        named |= {f"average_recall{most}": recall[..., 0, at] for at, most in enumerate(("_1", "_10", ""))}
        drawn = dict(zip(names, precision[0, :, :, 0, -1].T, strict=True))
        more |= {"curves": {name: curve.round(4).tolist() for name, curve in drawn.items() if (curve >= 0).all()}}
    return {name: _mean_valid(values) for name, values in named.items()} | more


def _mean_valid(values: np.ndarray) -> float:
    """The mean of what is known."""
    known = values[values > -1]
    return float(known.mean()) if known.size else 0.0
