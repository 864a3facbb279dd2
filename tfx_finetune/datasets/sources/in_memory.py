"""Source of samples whose columns are in memory: paths, texts and labels, or small arrays."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class InMemorySource:
    """A `Source` of columns in memory.

    Attributes:
        name: Short name of the data.
        labels: Class names in order; empty if they are to be collected from the samples.
        paths: Columns that hold the path of a file.
        parts: Columns by part, such as {"all": {"image": ..., "label": ..., "file": ...}}. All columns of a part have
            the same length. An empty string is a missing value.
        warnings: Issues that were found in the annotations.
    """

    name: str
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each part."""
        return {part: len(columns["file"]) for part, columns in self.parts.items()}

    def read(self, part: str) -> tf.data.Dataset:
        """Return the samples of a part, in order."""
        columns = {name: _convert_to_tensor(values) for name, values in self.parts[part].items()}
        return tf.data.Dataset.from_tensor_slices(columns)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return one sample.

        Args:
            index: int scalar. Position of the sample if all parts are read in order.
        """
        return {name: tf.gather(values, index) for name, values in self._columns.items()}

    @functools.cached_property
    def _columns(self) -> dict[str, tf.Tensor]:
        parts = list(self.parts.values())
        with tf.init_scope():  # not in the graph of the first caller, because other graphs use the tensors too
            return {name: tf.concat([_convert_to_tensor(part[name]) for part in parts], 0) for name in parts[0]}


def group_columns_by_split(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Convert records to columns by part.

    Args:
        records: One record per sample: text or an array by column. The value of `split` is its part; a record without
            a split belongs to `all`.

    Returns:
        Lists of values by column, by part, in the order train, val, test, all. Missing values are empty strings.

    Examples:
        >>> group_columns_by_split([{"split": "test", "file": "a"}, {"split": "train", "file": "b"}])
        {'train': {'file': ['b']}, 'test': {'file': ['a']}}
    """
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        parts.setdefault(record.get("split") or "all", []).append(record)
    names = [name for name in dict.fromkeys(key for record in records for key in record) if name != "split"]
    ordered = sorted(parts, key=["train", "val", "test", "all"].index)
    return {part: {name: [record.get(name, "") for record in parts[part]] for name in names} for part in ordered}


def convert_to_text(value: Any) -> str:
    """Convert a value of a column to text; TensorFlow gives strings as bytes.

    Examples:
        >>> convert_to_text(b"cat"), convert_to_text(3)
        ('cat', '3')
    """
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _convert_to_tensor(values: Any) -> Any:
    return values if isinstance(values, np.ndarray) else tf.constant([_encode_path(value) for value in values])


def _encode_path(value: str) -> bytes:
    # File names that are not UTF-8 contain surrogates, which TensorFlow cannot encode. JSON may contain lone surrogates
    # of other kinds: they stay invalid UTF-8, so that the survey lists the sample.
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
