"""What was found in pictures as a results file of COCO.

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
    """All that a model's head of boxes finds, the unsure too: of them average precision is made.

    Args:
        tasks: The model's heads.
        annotations: A COCO file of the pictures, whose ids of pictures and classes the results have. Without one,
            classes count from 1, and a picture's id is the number that its file's name is, as in COCO, else that name
            without its ending.

    Raises:
        UserError: Not exactly one head finds boxes; or the file is none of COCO's, or lacks one of its classes.
    """

    def __init__(self, tasks: Mapping[str, Task], annotations: str = "") -> None:
        finders = [
            head for head, task in tasks.items() if task.localization and not task.localization.has_class_indices
        ]
        if len(finders) != 1:
            received = ", ".join(tasks)
            raise UserError("COCO's results want a model with one head that finds boxes", got=received)
        (self._head,) = finders
        names = tasks[self._head].labels.names
        self._categories: list[Any] = list(range(1, len(names) + 1))
        self._image_ids: dict[str, Any] | None = None
        if annotations:
            known, self._image_ids = coco_file.read_ids(Path(annotations).expanduser())
            if missing := [name for name in names if normalize_class_name(name) not in known]:
                what = "a COCO file that lacks classes of the model"
                raise UserError(what, got=f"{annotations} without {', '.join(missing)}", expected=list(known))
            self._categories = [known[normalize_class_name(name)] for name in names]
        self._unlisted_files: list[str] = []
        self._records: list[dict[str, Any]] = []

    def add(self, file: str, outputs: Mapping[str, np.ndarray]) -> None:
        """Adds what was found in a picture.

        Args:
            file: Of the picture.
            answers: What each head says: (objects, 6) of left, top, right and bottom in its pixels, score and class, -1
                where nothing more is found.
        """
        picture = self._find_image_id(file)
        if picture is None:
            self._unlisted_files.append(file)
            return
        for left, top, right, bottom, score, label in outputs[self._head].astype(float).tolist():
            if label >= 0:
                place = [left, top, right - left, bottom - top]
                category = self._categories[int(label)]
                self._records.append({"image_id": picture, "category_id": category, "bbox": place, "score": score})

    def write(self, path: str) -> None:
        """Writes the file; says which pictures were not listed, and are left out."""
        if self._unlisted_files:
            some = progress.shorten_list(self._unlisted_files, 3)
            progress.log(f"pictures that the COCO file does not list, left out: {len(self._unlisted_files)} ({some})")
        with files.write_atomically(Path(path)) as draft:
            draft.write_text(json.dumps(self._records), encoding="utf-8")

    def _find_image_id(self, file: str) -> Any:
        """Of the picture that ends as a file does; None where it is not listed."""
        path = PurePath(file)
        if self._image_ids is None:
            return int(path.stem) if path.stem.isdecimal() else path.stem
        parts = path.parts
        ends = ("/".join(parts[at:]) for at in range(len(parts)))
        return next((self._image_ids[end] for end in ends if end in self._image_ids), None)
