"""A source whose samples are rows of columns in memory: paths and labels, or small arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


@dataclass(frozen=True)
class Rows:
    """A `Source` of columns held as arrays of one length.

    Attributes:
        name: Short name of the data.
        labels: Class names in order, where the data fixes it.
        paths: Columns that hold the path of a file.
        parts: Columns by part: {"all": {"image": ..., "label": ..., "file": ...}}.
    """

    name: str
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each part."""
        return {part: len(columns["file"]) for part, columns in self.parts.items()}

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in order."""
        columns = {name: np.asarray(values) for name, values in self.parts[part].items()}
        return tf.data.Dataset.from_tensor_slices(columns)


def by_split(records: Sequence[Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Turns records into columns by part: the parts of their `split` values, or `all` where no record has one."""
    parts: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        parts.setdefault(record.get("split") or "all", []).append(record)
    names = [name for name in dict.fromkeys(key for record in records for key in record) if name != "split"]
    ordered = sorted(parts, key=["train", "val", "test", "all"].index)
    return {part: {name: [record.get(name, "") for record in parts[part]] for name in names} for part in ordered}


def pictures(folder: Path) -> Iterable[Path]:
    """Picture files below a folder, sorted, by their ending; hidden files and folders are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PICTURES and not hidden and path.is_file():
            yield path
