"""Label map: a table that renames labels, or leaves out the samples of a label (`--label_map`)."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.table import read_rows
from tfx_finetune.ops.tf_data import parallel_map
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import Task

_FLAG = "--label_map"
_COLUMN, _SOURCE_COLUMN = "label", "source"

LabelKey = tuple[str, str]
"""Source (empty for all sources), label."""


@dataclass(frozen=True)
class LabelMap:
    """New names of labels.

    Attributes:
        path: Table file.
        new_labels: New name of each label; an empty name leaves its samples out. An entry for one source takes
            precedence over an entry for all sources.
    """

    path: Path
    new_labels: Mapping[LabelKey, str]

    def find_key(self, source: str, label: str) -> LabelKey:
        """Return the key under which a label of a source would be renamed."""
        return (source, label) if (source, label) in self.new_labels else ("", label)


@dataclass(frozen=True)
class RelabeledSource:
    """A `Source` with renamed labels.

    Attributes:
        source: Source with the original labels.
        new_labels: New value of the label column by source and original value; values without an entry stay.
    """

    source: Source
    new_labels: Mapping[LabelKey, str]

    name = property(lambda self: self.source.name)
    sizes = property(lambda self: self.source.sizes)
    paths = property(lambda self: self.source.paths)
    labels = ()
    """Empty: class names are collected from the samples."""

    def read(self, part: str) -> tf.data.Dataset:
        """Return the samples of a part, in order."""
        if not self.new_labels:
            return self.source.read(part)
        sources, labels = (tf.constant(column) for column in zip(*self.new_labels, strict=True))
        new_labels = tf.constant(list(self.new_labels.values()))

        def rename(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            label, source = sample[_COLUMN], sample.get(_SOURCE_COLUMN, tf.constant(""))
            matches = tf.where((labels == label) & (sources == source))[:, 0]
            return sample | {_COLUMN: tf.cond(tf.size(matches) > 0, lambda: new_labels[matches[0]], lambda: label)}

        return parallel_map(self.source.read(part), rename)


def read_label_map(label_map: str, task_templates: Mapping[str, Task], sources: Collection[str]) -> LabelMap | None:
    """Read the table of `--label_map`; return None if its path is empty.

    Args:
        label_map: Path of the table.
        task_templates: Heads, built for any classes.
        sources: Names of the sources of `--data`; empty string for a source without a name.

    Raises:
        UserError: If the table cannot be read or is malformed, or if no head reads labels.
    """
    if not label_map:
        return None
    if all(task.column != _COLUMN for task in task_templates.values()):
        columns = sorted({task.column for task in task_templates.values()})
        raise UserError(f"{_FLAG} renames a column that no head reads", got=_COLUMN, expected=columns)
    path = Path(label_map).expanduser()
    new_labels: dict[LabelKey, str] = {}
    for line, row in read_rows(path):
        location = f"{path}, line {line}"
        values = {name.strip().lower(): str(value).strip() for name, value in row.items()}
        if not {"from", "to"} <= set(values) <= {"from", "to", _SOURCE_COLUMN}:
            expected = f"from, to and optionally {_SOURCE_COLUMN}"
            raise UserError(f"{_FLAG} has other columns", got=", ".join(row), expected=expected)
        source, label = values.get(_SOURCE_COLUMN, ""), values["from"]
        if not label:
            raise UserError(f"A row of {_FLAG} has no label", got=location, expected="a label in the column from")
        if source and "" not in sources and source not in sources:
            hint = did_you_mean(source, sources)
            raise UserError(f"{_FLAG} names an unknown source", got=source, expected=sources, hint=hint)
        if (source, label) in new_labels:
            hint = "keep one of the rows"
            raise UserError(f"{_FLAG} renames a label twice", got=f"{label} ({location})", hint=hint)
        new_labels[source, label] = values["to"]
    if not new_labels:
        raise UserError(f"{_FLAG} is empty", got=path, expected="rows of from, to")
    _check_chains(new_labels)
    return LabelMap(path, new_labels)


def _check_chains(new_labels: Mapping[LabelKey, str]) -> None:
    """Check that no new label is renamed itself, because the result would depend on the order."""
    renamed = [key for key, new_label in new_labels.items() if new_label != key[1]]
    for source, label in renamed:
        new_label = new_labels[source, label]
        for other_source, other_label in renamed:
            if new_label == other_label and (source == other_source or not source or not other_source):
                next_label = new_labels[other_source, other_label] or "(left out)"
                got = f"{label} -> {new_label}, {new_label} -> {next_label}"
                raise UserError(f"{_FLAG} renames in a chain", got=got, hint="write the final name in each row")


def apply_label_map(table: Table, source: Source, label_map: LabelMap | None) -> tuple[Table, Source]:
    """Rename the labels of a table and of its source; leave out samples whose label has no new name.

    Args:
        table: Surveyed samples.
        source: Source of the samples.
        label_map: New names; None changes nothing.

    Raises:
        UserError: If no sample has a label that is to be renamed.
    """
    if label_map is None:
        return table, source
    labels = table.columns[_COLUMN]
    sources = table.columns.get(_SOURCE_COLUMN, np.full(len(labels), "", object))
    keys = list(zip(sources, labels, strict=True))
    unique_keys = sorted(set(keys))
    _check_labels_exist(label_map, {(name, label) for name, value in unique_keys for label in _split_labels(value)})
    new_values, excluded_keys = {}, set()
    for name, value in unique_keys:
        new_labels = [
            label_map.new_labels.get(label_map.find_key(name, label), label) for label in _split_labels(value)
        ]
        if value and "" in new_labels:
            excluded_keys.add((name, value))
        new_values[name, value] = "" if "" in new_labels else LABEL_SEPARATOR.join(dict.fromkeys(new_labels))
    is_excluded = np.array([key in excluded_keys for key in keys], bool) & (table.error == "")
    errors = np.array([f"{_FLAG} leaves {', '.join(_split_labels(label))} out" for label in labels], object)
    if is_excluded.any():
        progress.log(f"{_FLAG} leaves out {is_excluded.sum()} of {len(keys)} samples; the report lists them")
    warning = f"{label_map.path} renames or leaves out {len(label_map.new_labels)} labels"
    table = dataclasses.replace(
        table,
        error=np.where(is_excluded, errors, table.error),
        split=np.where(is_excluded, "", table.split).astype(object),
        columns={**table.columns, _COLUMN: np.array([new_values[key] for key in keys], object)},
        warnings=(*table.warnings, warning),
    )
    changed_values = {key: value for key, value in new_values.items() if value != key[1]}
    return table, RelabeledSource(source, changed_values)


def _split_labels(value: str) -> list[str]:
    return value.split(LABEL_SEPARATOR)


def _check_labels_exist(label_map: LabelMap, existing: Collection[LabelKey]) -> None:
    all_keys = {("", label) for _, label in existing} | set(existing)
    for source, label in label_map.new_labels:
        if (source, label) not in all_keys:
            labels = sorted({other for name, other in all_keys if name == source} - {""})
            hint = did_you_mean(label, labels)
            got = f"{label} (source {source})" if source else label
            raise UserError(f"{_FLAG} renames a label that no sample has", got=got, expected=labels, hint=hint)
