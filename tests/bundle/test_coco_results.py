"""COCO results files of predicted boxes, read by COCO tools."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.annotated_data import make_annotation, write_coco_file
from tfx_finetune.bundle.coco_results import CocoResults
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels

IMAGES = [
    {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
    {"id": 900, "file_name": "more/a.png", "width": 20, "height": 10},
]
ANNOTATIONS = [
    make_annotation((2, 1, 10, 5), 1, 7, id=1, area=50, iscrowd=0),
    make_annotation((0, 0, 4, 8), 90, 7, id=2, area=32, iscrowd=0),
    make_annotation((5, 2, 6, 6), 90, 900, id=3, area=36, iscrowd=0),
]


def heads(specs=None):
    labels = ClassLabels(("cat", "dog"), (1, 1), 2)
    return {head: TASKS.build(parse_spec(spec), labels) for head, spec in (specs or {"objects": "detect()"}).items()}


def written(results, path):
    results.write(str(path))
    return json.loads(path.read_text())


@pytest.mark.parametrize("other_heads", [{}, {"mask": "segment()"}])
def test_boxes_of_one_detection_head(other_heads, tmp_path):
    """The file contains boxes below the display threshold too, because average precision needs them."""
    results = CocoResults(heads({"objects": "detect(display_threshold=0.4)"} | other_heads))
    boxes = [[1, 2, 31, 42, 0.75, 1], [5, 5, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.25, 0], [0, 0, 0, 0, 0, -1]]
    results.add("photos/0012.jpg", {"objects": np.array(boxes, np.float32), "mask": np.zeros((4, 4), np.uint8)})
    assert written(results, tmp_path / "results.json") == [
        {"image_id": 12, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.75},
        {"image_id": 12, "category_id": 1, "bbox": [5, 5, 4, 4], "score": 0.5},
        {"image_id": 12, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.25},
    ]


def test_ids_of_a_coco_file(tmp_path, capsys):
    """With the IDs of a COCO file, perfect boxes have an average precision of 1 in COCO tools."""
    truth = write_coco_file(tmp_path / "truth.json", ANNOTATIONS, IMAGES)
    results = CocoResults(heads(), str(truth))
    for file, rows in {
        "a.png": [[2, 1, 12, 6, 0.9, 0], [0, 0, 4, 8, 0.8, 1]],
        "more/a.png": [[5, 2, 11, 8, 0.1, 1]],
        "b.png": [[0, 0, 9, 9, 0.99, 0]],
    }.items():
        results.add(str(tmp_path / file), {"objects": np.array(rows, np.float32)})
    records = written(results, tmp_path / "results.json")
    assert [(record["image_id"], record["category_id"]) for record in records] == [(7, 1), (7, 90), (900, 90)]
    assert "images that are not in the COCO file, left out: 1 (" in capsys.readouterr().err
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_missing_classes_and_heads_are_refused(tmp_path):
    """The COCO file must have all classes, and the model must have a detection head."""
    cats = write_coco_file(tmp_path / "cats.json", [], IMAGES, [{"id": 3, "name": "cat"}])
    with pytest.raises(UserError, match=r"cats\.json lacks classes of the model: dog\. Expected: cat\."):
        CocoResults(heads(), str(cats))
    with pytest.raises(UserError, match="exactly one detection head: heads mask"):
        CocoResults(heads({"mask": "segment()"}))
