"""Predicted boxes as a results file of COCO.

The format is https://cocodataset.org/#format-results: a list of `image_id`, `category_id`, `bbox` and `score`.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from tfx_finetune.core import files, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources import coco_file
from tfx_finetune.ops.annotations import normalize_class_name
from tfx_finetune.types.task import Task


class CocoResults:
    """Collection of all boxes that a detection head predicts, from which COCO tools compute average precision.

    Args:
        tasks: Tasks by head.
        annotations: COCO file that lists the images; its image and category IDs are used. Without it, category IDs
            count from 1, and the ID of an image is its file name without suffix, as a number if it is one.

    Raises:
        UserError: If not exactly one head predicts boxes, or the file is not a COCO file with all classes of the model.
    """

    def __init__(self, tasks: Mapping[str, Task], annotations: str = "") -> None:
        box_heads = [
            head for head, task in tasks.items() if task.localization and not task.localization.has_class_indices
        ]
        if len(box_heads) != 1:
            message = "--coco_results needs a model with exactly one detection head"
            raise UserError(message, got=f"heads {', '.join(tasks)}")
        (self._head,) = box_heads
        names = tasks[self._head].labels.names
        self._categories: list[Any] = list(range(1, len(names) + 1))
        self._image_ids: dict[str, Any] | None = None
        if annotations:
            category_ids, self._image_ids = coco_file.read_ids(Path(annotations).expanduser())
            if missing := [name for name in names if normalize_class_name(name) not in category_ids]:
                message = f"The COCO file {annotations} lacks classes of the model"
                raise UserError(message, got=", ".join(missing), expected=list(category_ids))
            self._categories = [category_ids[normalize_class_name(name)] for name in names]
        self._unlisted_files: list[str] = []
        self._records: list[dict[str, Any]] = []

    def add(self, file: str, outputs: Mapping[str, np.ndarray]) -> None:
        """Add the predicted boxes of an image.

        Args:
            file: Path of the image.
            outputs: Predictions by head: (objects, 6) of left, top, right and bottom in pixels of the image, score and
                class; class -1 is padding.
        """
        image_id = self._find_image_id(file)
        if image_id is None:
            self._unlisted_files.append(file)
            return
        for left, top, right, bottom, score, label in outputs[self._head].astype(float).tolist():
            if label >= 0:
                bbox = [left, top, right - left, bottom - top]
                category_id = self._categories[int(label)]
                self._records.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})

    def write(self, path: str) -> None:
        """Write the file, and log the images that are left out because the COCO file does not list them."""
        if self._unlisted_files:
            examples = progress.shorten_list(self._unlisted_files, 3)
            count = len(self._unlisted_files)
            progress.log(f"images that are not in the COCO file, left out: {count} ({examples})")
        with files.write_atomically(Path(path)) as draft:
            draft.write_text(json.dumps(self._records), encoding="utf-8")

    def _find_image_id(self, file: str) -> Any:
        """Return the ID of the listed image whose path is the end of the file's path; None if there is none."""
        path = PurePath(file)
        if self._image_ids is None:
            return int(path.stem) if path.stem.isdecimal() else path.stem
        parts = path.parts
        suffixes = ("/".join(parts[index:]) for index in range(len(parts)))
        return next((self._image_ids[suffix] for suffix in suffixes if suffix in self._image_ids), None)
