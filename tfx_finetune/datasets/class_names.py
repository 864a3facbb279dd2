"""Which classes the labels of a column are, and whether they can be learned."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels, Task


def collect_labels(table: Table, source: Source, task: Task) -> ClassLabels:
    """Collects the classes of a head.

    Raises:
        UserError: They are not such as can be learned.
    """
    column, values = task.column, table.columns[task.column]
    per_split = {side: Counter(iterate_classes(values[table.split == side])) for side in SPLITS}
    trained, everywhere = per_split["train"], sum(per_split.values(), Counter())
    fixed = column == "label" or (task.localization is not None and task.localization.has_class_indices)
    names = source.labels if fixed and source.labels else tuple(sorted(trained))
    if task.heads_by:
        names = tuple(name for name in names if trained[name])
    if task.zero_shot:  # names that are held out whole are what it is tested on
        names = tuple(sorted(everywhere))
    lost = set(iterate_classes(values[table.error != ""])) - set(iterate_classes(values[table.error == ""]))
    if lost:
        todo = "mend its files, or leave it out"
        raise UserError("no sample of a class can be read", got=min(lost), hint=todo)
    if not task.zero_shot and (unseen := (set(per_split["val"]) | set(per_split["test"])) - set(trained)):
        todo = "give it training samples, or leave it out"
        raise UserError("a class of the held-out data never occurs in training", got=min(unseen), hint=todo)
    if task.single_label:
        check_single_label(table, column)
        if len(trained) < 2:
            todo = "classification wants at least two; the classes of a folder are its sub-folders"
            raise UserError("one class only", got=", ".join(trained), hint=todo)
    if not trained:
        raise UserError("no sample has a label", got=f"column {column}")
    if not task.zero_shot and (alone := [name for name in names if everywhere[name] == 1]):
        what = "a class with one sample, which cannot be both learned and tested"
        raise UserError(what, got=alone[0], hint="add samples to it or leave it out")
    return ClassLabels(names, tuple(trained[name] for name in names), table.size("train"))


def check_single_label(table: Table, column: str) -> None:
    """Raises a `UserError` where a sample has not exactly one label, which classification wants."""
    used = np.isin(table.split.astype(str), SPLITS)
    for file, value in zip(table.file[used], table.columns[column][used], strict=True):
        if not value:
            raise UserError("a sample without a label", got=file, hint="label it or leave it out")
        if LABEL_SEPARATOR in value:
            labels = value.replace(LABEL_SEPARATOR, ", ")
            what = "a sample with several labels"
            raise UserError(what, got=f"{file} ({labels})", expected="one label a sample", hint="use --heads=tag()")


def iterate_classes(values: np.ndarray) -> Iterator[str]:
    """Every class of every sample, as often as it occurs."""
    return (name for value in values for name in value.split(LABEL_SEPARATOR) if name)
