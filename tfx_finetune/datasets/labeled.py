"""Labeled data for a trained model, as `evaluate` reads it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets import class_names, filters, localization_targets
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.survey import assign_columns, survey
from tfx_finetune.types.components import SOURCES, Modality, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import Task


def load_labeled_data(
    data: str, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], split: str, max_unreadable: float
) -> Data:
    """Open and survey labeled data for a trained model; all selected samples are in the split `test`.

    Args:
        data: Path or source spec.
        modalities: Modalities of the model, by tower.
        tasks: Heads of the model.
        split: Split of the data to select; empty: all samples.
        max_unreadable: float, 0 to 1. Maximum fraction of unreadable samples.

    Raises:
        UserError: If the data cannot be used, or has a label that the model does not know.
    """
    source = SOURCES.build(infer_source(data))
    columns = assign_columns(source, modalities)
    table = survey_labeled_data(source, modalities, columns, tasks, split, max_unreadable)
    return Data(source, table, modalities, columns, tasks, (), 32, EpochSampler(0))


def survey_labeled_data(
    source: Source,
    modalities: Mapping[str, Modality],
    tower_columns: Mapping[str, str],
    tasks: Mapping[str, Task],
    split: str,
    max_unreadable: float,
) -> Table:
    """Survey labeled data for a trained model; all selected samples are in the split `test`.

    Args:
        source: Source of the samples.
        modalities: Modalities of the model, by tower.
        tower_columns: Column that each tower reads.
        tasks: Heads of the model.
        split: Split of the data to select; empty: all samples.
        max_unreadable: float, 0 to 1. Maximum fraction of unreadable samples.

    Raises:
        UserError: If too many samples cannot be read, or if the model does not know a label.
    """
    if split and split not in source.sizes:
        raise UserError("The data has no such split", got=split, expected=list(source.sizes))
    heads_by = filters.get_heads_by(tasks)
    target_columns = list_target_columns(tasks, heads_by)
    localization_columns = localization_targets.map_localization_columns(tasks)
    table = survey(source, modalities, tower_columns, target_columns, localization_columns)
    check_unreadable(table, max_unreadable, "--max_unreadable")
    selection = (table.split != "") & ((table.split == split) | (split == ""))
    if not selection.any():
        raise UserError("No sample of the split can be read", got=split)
    table = dataclasses.replace(table, split=np.where(selection, "test", "").astype(object))
    for head, task in tasks.items():
        head_table = filters.select_head_samples(table, task, head, heads_by)
        if task.single_label:
            class_names.check_single_label(head_table, task.column)
        labels = class_names.iterate_classes(head_table.columns[task.column][head_table.split == "test"])
        if unknown := sorted(set(labels) - set(task.labels.names)):
            raise UserError("The model does not know a label of the data", got=unknown[0], expected=task.labels.names)
    return table


def list_target_columns(tasks: Mapping[str, Task], heads_by: str) -> tuple[str, ...]:
    """Return the columns of the targets, and the column that selects the head of a sample if there is one."""
    return tuple(dict.fromkeys(filter(None, [*(task.column for task in tasks.values()), heads_by])))


def check_unreadable(table: Table, max_unreadable: float, flag: str) -> None:
    """Check that most samples can be read.

    Args:
        table: Surveyed samples.
        max_unreadable: float, 0 to 1. Maximum fraction of unreadable samples.
        flag: Name of the option of `max_unreadable`, for the error message.

    Raises:
        UserError: If the fraction is exceeded, or if no sample can be read.
    """
    errors, count = table.errors, len(table.file)
    if len(errors) / count > max_unreadable or len(errors) == count:
        got = "; ".join(f"{file}: {error}" for file, error in errors[:3]) + ("; ..." if len(errors) > 3 else "")
        expected = f"a fraction of at most {max_unreadable}"
        hint = "repair or remove the files" + ("" if len(errors) == count else f", or raise {flag}")
        raise UserError(f"{len(errors)} of {count} samples cannot be read", got=got, expected=expected, hint=hint)
    if errors:
        progress.log(f"{len(errors)} of {count} samples cannot be read and are left out; the report lists them")
