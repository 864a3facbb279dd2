"""Opens labeled data for a model that exists."""

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


def survey_labeled_data(
    source: Source,
    modalities: Mapping[str, Modality],
    tower_columns: Mapping[str, str],
    tasks: Mapping[str, Task],
    part: str,
    max_unreadable: float,
) -> Table:
    """Surveys labelled data for a model that exists; the wanted samples stand in the split `test`.

    Args:
        source: The data.
        modalities: The model's, by tower.
        places: The column that each takes.
        tasks: The model's heads.
        part: A part that the data comes with; empty for all of it.
        max_bad: Share of unreadable samples above which this fails.

    Raises:
        UserError: Too much cannot be read, or a label is none of the model's.
    """
    if part and part not in source.sizes:
        raise UserError("the data has no such split", got=part, expected=list(source.sizes))
    route = filters.get_heads_by(tasks)
    table = survey(
        source,
        modalities,
        tower_columns,
        list_target_columns(tasks, route),
        localization_targets.map_localization_columns(tasks),
    )
    check_unreadable(table, max_unreadable, "--max_unreadable")
    wanted = (table.split != "") & ((table.split == part) | (part == ""))
    if not wanted.any():
        raise UserError("no sample of this split can be read", got=part)
    table = dataclasses.replace(table, split=np.where(wanted, "test", "").astype(object))
    for head, task in tasks.items():
        own = filters.select_head_samples(table, task, head, route)
        if task.single_label:
            class_names.check_single_label(own, task.column)
        asked = class_names.iterate_classes(table.columns[task.column][own.split == "test"])
        if unknown := sorted(set(asked) - set(task.labels.names)):
            raise UserError("a label that the model does not know", got=unknown[0], expected=task.labels.names)
    return table


def list_target_columns(tasks: Mapping[str, Task], heads_by: str) -> tuple[str, ...]:
    """Those that heads read, and that says which of them is asked."""
    return tuple(dict.fromkeys(filter(None, [*(task.column for task in tasks.values()), heads_by])))


def check_unreadable(table: Table, max_unreadable: float, flag: str) -> None:
    bad, count = table.errors, len(table.file)
    if len(bad) / count > max_unreadable or len(bad) == count:
        shown = "; ".join(f"{file}: {why}" for file, why in bad[:3]) + (", ..." if len(bad) > 3 else "")
        todo = "mend or remove them" if len(bad) == count else f"mend or remove them, or raise {flag}"
        allowed = f"a share of {max_unreadable}"
        raise UserError(f"{len(bad)} of {count} samples cannot be read", got=shown, expected=allowed, hint=todo)
    if bad:
        progress.log(f"{len(bad)} of {count} samples cannot be read and are left out; the report lists them")


def load_labeled_data(
    data: str, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], split: str, max_unreadable: float
) -> Data:
    """Opens labelled data for a model that exists; every sample that is wanted stands in the split `test`.

    Args:
        data: A path or a source spec.
        modalities: The model's, by tower.
        tasks: The model's heads.
        split: A part that the data comes with; empty for all of it.
        max_bad: Share of unreadable samples above which this fails.

    Raises:
        UserError: The data cannot be used, or has a label that the model does not know.
    """
    source = SOURCES.build(infer_source(data))
    columns = assign_columns(source, modalities)
    table = survey_labeled_data(source, modalities, columns, tasks, split, max_unreadable)
    return Data(source, table, modalities, columns, tasks, (), 32, EpochSampler(0))
