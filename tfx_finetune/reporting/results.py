"""STATION: what was found in pictures as a results file of COCO.

The format is https://cocodataset.org/#format-results: a list of `image_id`, `category_id`, `bbox` and `score`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx_finetune.contracts import Task
from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError


def check_results(path: str, tasks: Mapping[str, Task]) -> None:
    """Raises a `UserError` where a results file is wanted of a model without boxes."""
    if path and len(_finders(tasks)) != 1:
        raise UserError(
            "--coco_results wants a model with one head that finds boxes", received=path, allowed="detect()"
        )


def results(record: Mapping[str, Any], tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The results of one record of `Bundle.predict_each`.

    `image_id` is the number that the file's name is, as in COCO, else that name without its ending; `category_id`
    counts the classes from 1; `bbox` is left, top, width and height in pixels of the picture.
    """
    (head,) = _finders(tasks)
    said = record[head] if len(tasks) > 1 else record
    stem = Path(str(record.get("file", ""))).stem
    names = tasks[head].labels.names
    found = []
    for each in said.get("objects", ()):
        left, top, right, bottom = each["box"]
        found.append(
            {
                "image_id": int(stem) if stem.isdecimal() else stem,
                "category_id": names.index(each["label"]) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "score": each["score"],
            }
        )
    return found


def write_results(path: str, found: list[dict[str, Any]]) -> None:
    """Writes a results file."""
    with files.atomic(Path(path)) as draft:
        draft.write_text(json.dumps(found), encoding="utf-8")


def _finders(tasks: Mapping[str, Task]) -> list[str]:
    """Heads that find boxes: their classes are not told by the data as places in a list."""
    return [head for head, task in tasks.items() if task.places and not task.places.indexed]
