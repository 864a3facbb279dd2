"""Class names of a head, collected from the labels of a column, and checks that they can be trained."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import LABEL_SEPARATOR, SPLITS, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels, Task


def collect_labels(table: Table, source: Source, task: Task) -> ClassLabels:
    """Collect the class names of a head.

    Args:
        table: Samples of the head with their splits.
        source: Source of the samples, which may fix the order of the classes.
        task: The head, built for any classes.

    Raises:
        UserError: If the classes cannot be trained: a class has no readable sample, no training sample or only one
            sample, or a single-label head has fewer than two classes.
    """
    column, values = task.column, table.columns[task.column]
    counts_by_split = {split: Counter(iterate_classes(values[table.split == split])) for split in SPLITS}
    train_counts, total_counts = counts_by_split["train"], sum(counts_by_split.values(), Counter())
    uses_source_labels = column == "label" or (task.localization is not None and task.localization.has_class_indices)
    names = source.labels if uses_source_labels and source.labels else tuple(sorted(train_counts))
    if task.heads_by:
        names = tuple(name for name in names if train_counts[name])
    if task.zero_shot:  # classes without training samples are its test
        names = tuple(sorted(total_counts))
    unreadable = set(iterate_classes(values[table.error != ""])) - set(iterate_classes(values[table.error == ""]))
    if unreadable:
        hint = "repair the files of the class, or leave the class out"
        raise UserError("No sample of a class can be read", got=min(unreadable), hint=hint)
    if not task.zero_shot:
        untrained = (set(counts_by_split["val"]) | set(counts_by_split["test"])) - set(train_counts)
        if untrained:
            hint = "add training samples of the class, or leave the class out"
            raise UserError("A class of the held-out data has no training sample", got=min(untrained), hint=hint)
    if task.single_label:
        check_single_label(table, column)
        if len(train_counts) < 2:
            hint = "add samples of a second class; the classes of a folder are its sub-folders"
            raise UserError("Classification needs at least two classes", got=", ".join(train_counts), hint=hint)
    if not train_counts:
        raise UserError("No sample has a label", got=f"column {column}")
    if not task.zero_shot and (single := [name for name in names if total_counts[name] == 1]):
        hint = "add samples of the class, or leave it out"
        raise UserError("A class with one sample cannot be both trained and tested", got=single[0], hint=hint)
    return ClassLabels(names, tuple(train_counts[name] for name in names), table.size("train"))


def check_single_label(table: Table, column: str) -> None:
    """Check that every sample has exactly one label, as classification needs.

    Raises:
        UserError: If a sample of a split has no label or several labels.
    """
    in_split = np.isin(table.split.astype(str), SPLITS)
    for file, value in zip(table.file[in_split], table.columns[column][in_split], strict=True):
        if not value:
            raise UserError("A sample has no label", got=file, hint="label it or leave it out")
        if LABEL_SEPARATOR in value:
            got = f"{file} ({value.replace(LABEL_SEPARATOR, ', ')})"
            raise UserError("A sample has several labels", got=got, expected="one label", hint="use --heads=tag()")


def iterate_classes(values: Iterable[str]) -> Iterator[str]:
    """Yield every class of every value of a label column.

    Args:
        values: Labels of each sample, joined by `LABEL_SEPARATOR`.

    Examples:
        >>> list(iterate_classes(["cat", "", "cat\\ndog"]))
        ['cat', 'cat', 'dog']
    """
    return (name for value in values for name in value.split(LABEL_SEPARATOR) if name)
