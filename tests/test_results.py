"""What is found in pictures as a results file of COCO."""

import numpy as np
import pytest

from tfx_finetune.contracts import TASKS, Labels
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.languages.routing import answered
from tfx_finetune.reporting.results import results


@pytest.mark.parametrize("beside", [{}, {"mask": "segment()"}])
def test_boxes_of_a_lone_head_and_of_one_of_two(beside):
    """Of records as `predict` writes them: a head of boxes is called `objects`, as what it finds."""
    labels = Labels(("cat", "dog"), (1, 1), 2)
    specs = {"objects": "detect(threshold=0.4)"} | beside
    tasks = {head: TASKS.build(parse_spec(spec), labels) for head, spec in specs.items()}
    boxes = np.array([[1, 2, 31, 42, 0.75, 1], [5, 5, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.25, 0]], np.float32)
    record = {"file": "photos/0012.jpg"} | answered(tasks, {"objects": boxes, "mask": np.zeros((4, 4), np.uint8)}, "")
    assert results(record, tasks) == [
        {"image_id": 12, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.75},
        {"image_id": 12, "category_id": 1, "bbox": [5, 5, 4, 4], "score": 0.5},
    ]
