"""Labels under other names, and samples of labels that are not wanted, by a table: `--label_map`."""

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
"""A source, empty for all of them, and a label."""


@dataclass(frozen=True)
class LabelMap:
    """How labels are renamed.

    Attributes:
        path: The table that says so.
        to: The new name of a label; empty where its samples are left out. What is said of one source goes before what
            is said of all.
    """

    path: Path
    new_labels: Mapping[LabelKey, str]

    def find_key(self, source: str, label: str) -> LabelKey:
        """The row that renames a label of a source."""
        return (source, label) if (source, label) in self.new_labels else ("", label)


@dataclass(frozen=True)
class RelabeledSource:
    """A `Source` whose labels have other names.

    Attributes:
        source: The same with its own.
        to: The new labels of a sample of a source with these labels, all joined; what is not there stays.
    """

    source: Source
    new_labels: Mapping[LabelKey, str]

    name = property(lambda self: self.source.name)
    sizes = property(lambda self: self.source.sizes)
    paths = property(lambda self: self.source.paths)
    labels = ()
    """They are collected."""

    def read(self, part: str) -> tf.data.Dataset:
        """Returns the samples of a part, in order."""
        if not self.new_labels:
            return self.source.read(part)
        sources, labels = (tf.constant(column) for column in zip(*self.new_labels, strict=True))
        new = tf.constant(list(self.new_labels.values()))

        def called(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            label, lane = sample[_COLUMN], sample.get(_SOURCE_COLUMN, tf.constant(""))
            found = tf.where((labels == label) & (sources == lane))[:, 0]
            return sample | {_COLUMN: tf.cond(tf.size(found) > 0, lambda: new[found[0]], lambda: label)}

        return parallel_map(self.source.read(part), called)


def read_label_map(
    label_map: str, task_templates: Mapping[str, Task], sources: Collection[str]
) -> LabelMap | None:
    """Read the table of `--label_map`; return None if its path is empty.

    Args:
        label_map: Path of the table.
        heads: As drafts.
        sources: Names of the sources of `--data`; empty string for a source without a name.

    Raises:
        UserError: It cannot be read, or what it says cannot be done.
    """
    if not label_map:
        return None
    if all(task.column != _COLUMN for task in task_templates.values()):
        columns = sorted({task.column for task in task_templates.values()})
        raise UserError(f"{_FLAG} renames what no head reads", got=_COLUMN, expected=columns)
    path = Path(label_map).expanduser()
    to: dict[LabelKey, str] = {}
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        known = {name.strip().lower(): str(value).strip() for name, value in row.items()}
        if not {"from", "to"} <= set(known) <= {"from", "to", _SOURCE_COLUMN}:
            raise UserError(f"{_FLAG} has other columns", got=", ".join(row), expected=f"from, to and {_SOURCE_COLUMN}")
        key = (known.get(_SOURCE_COLUMN, ""), known["from"])
        if not key[1]:
            raise UserError(f"{_FLAG} renames no label", got=where, expected="a label in the column from")
        if key[0] and "" not in sources and key[0] not in sources:
            todo = did_you_mean(key[0], sources)
            raise UserError(f"{_FLAG} names a source that there is not", got=key[0], expected=sources, hint=todo)
        if key in to:
            raise UserError(f"{_FLAG} renames a label twice", got=f"{key[1]} ({where})", hint="say it once")
        to[key] = known["to"]
    if not to:
        raise UserError(f"{_FLAG} is empty", got=path, expected="rows of from, to")
    _check_chains(to)
    return LabelMap(path, to)


def _check_chains(new_labels: Mapping[LabelKey, str]) -> None:
    """A new name that is an old one, too, would mean one thing in this order and another in that."""
    old = [key for key, new in new_labels.items() if new != key[1]]
    for source, label in old:
        new = new_labels[source, label]
        for other, again in old:
            if new == again and (source == other or not source or not other):
                received = f"{label} -> {new}, {new} -> {new_labels[other, again] or '(left out)'}"
                raise UserError(f"{_FLAG} renames in a chain", got=received, hint="name what each becomes at last")


def apply_label_map(table: Table, source: Source, label_map: LabelMap | None) -> tuple[Table, Source]:
    """The samples and their source with new labels; those of labels that become nothing are left out, and listed.

    Raises:
        UserError: No sample has a label that is to be renamed.
    """
    if label_map is None:
        return table, source
    labels = table.columns[_COLUMN]
    lanes = table.columns.get(_SOURCE_COLUMN, np.full(len(labels), "", object))
    pairs = set(zip(lanes, labels, strict=True))
    _check_labels_exist(
        label_map, {(lane, label) for lane, several in pairs for label in several.split(LABEL_SEPARATOR)}
    )
    to, out = {}, set()
    for lane, several in sorted(pairs):
        before = several.split(LABEL_SEPARATOR)
        after = [label_map.new_labels.get(label_map.find_key(lane, label), label) for label in before]
        if several and "" in after:
            out.add((lane, several))
        to[lane, several] = "" if "" in after else LABEL_SEPARATOR.join(dict.fromkeys(after))
    found = np.array([to[key] for key in zip(lanes, labels, strict=True)], object)
    dropped = np.array([key in out for key in zip(lanes, labels, strict=True)], bool) & (table.error == "")
    why = np.array([f"{_FLAG} leaves {label.replace(LABEL_SEPARATOR, ', ')} out" for label in labels], object)
    if dropped.any():
        progress.log(f"{_FLAG} leaves out {dropped.sum()} of {len(dropped)} samples; the report lists them")
    table = dataclasses.replace(
        table,
        error=np.where(dropped, why, table.error),
        split=np.where(dropped, "", table.split).astype(object),
        columns={**table.columns, _COLUMN: found},
        warnings=(
            *table.warnings,
            f"{len(label_map.new_labels)} labels have other names, or are left out, by {label_map.path}",
        ),
    )
    return table, RelabeledSource(source, {key: new for key, new in to.items() if new != key[1]})


def _check_labels_exist(label_map: LabelMap, existing: Collection[LabelKey]) -> None:
    every = {("", label) for _, label in existing} | set(existing)
    for source, label in label_map.new_labels:
        if (source, label) not in every:
            mine = sorted({other for lane, other in every if lane == source} - {""})
            todo = did_you_mean(label, mine)
            received = f"{label} (source {source})" if source else label
            raise UserError(f"no sample has a label that {_FLAG} renames", got=received, expected=mine, hint=todo)
