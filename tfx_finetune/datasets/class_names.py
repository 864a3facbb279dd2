"""Which classes the labels of a column are, and whether they can be learned."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, Labels, Source, Task
from tfx_finetune.types.table import Table


def labels(table: Table, source: Source, task: Task) -> Labels:
    """Collects the classes of a head.

    Raises:
        UserError: They are not such as can be learned.
    """
    column, values = task.column, table.columns[task.column]
    per_split = {side: Counter(classes(values[table.split == side])) for side in SPLITS}
    trained, everywhere = per_split["train"], sum(per_split.values(), Counter())
    fixed = column == "label" or (task.places is not None and task.places.indexed)
    names = source.labels if fixed and source.labels else tuple(sorted(trained))
    if task.per:
        names = tuple(name for name in names if trained[name])
    if task.space:  # names that are held out whole are what it is tested on
        names = tuple(sorted(everywhere))
    lost = set(classes(values[table.reason != ""])) - set(classes(values[table.reason == ""]))
    if lost:
        todo = "mend its files, or leave it out"
        raise UserError("no sample of a class can be read", received=min(lost), todo=todo)
    if not task.space and (unseen := (set(per_split["val"]) | set(per_split["test"])) - set(trained)):
        todo = "give it training samples, or leave it out"
        raise UserError("a class of the held-out data never occurs in training", received=min(unseen), todo=todo)
    if task.single:
        check_single(table, column)
        if len(trained) < 2:
            todo = "classification wants at least two; the classes of a folder are its sub-folders"
            raise UserError("one class only", received=", ".join(trained), todo=todo)
    if not trained:
        raise UserError("no sample has a label", received=f"column {column}")
    if not task.space and (alone := [name for name in names if everywhere[name] == 1]):
        what = "a class with one sample, which cannot be both learned and tested"
        raise UserError(what, received=alone[0], todo="add samples to it or leave it out")
    return Labels(names, tuple(trained[name] for name in names), table.size("train"))


def check_single(table: Table, column: str) -> None:
    """Raises a `UserError` where a sample has not exactly one label, which classification wants."""
    used = np.isin(table.split.astype(str), SPLITS)
    for file, value in zip(table.file[used], table.columns[column][used], strict=True):
        if not value:
            raise UserError("a sample without a label", received=file, todo="label it or leave it out")
        if LABEL_SEPARATOR in value:
            labels = value.replace(LABEL_SEPARATOR, ", ")
            what = "a sample with several labels"
            raise UserError(what, received=f"{file} ({labels})", allowed="one label a sample", todo="use --heads=tag()")


def classes(values: np.ndarray) -> Iterator[str]:
    """Every class of every sample, as often as it occurs."""
    return (name for value in values for name in value.split(LABEL_SEPARATOR) if name)
