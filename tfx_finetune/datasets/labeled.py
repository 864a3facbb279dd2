"""Opens labeled data for a model that exists."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets import class_names, filters, localization_targets
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import Order
from tfx_finetune.datasets.sources.infer_source import recognize
from tfx_finetune.datasets.survey import placed, survey
from tfx_finetune.types.components import SOURCES, Modality, Source, Task
from tfx_finetune.types.table import Table


def opened(
    source: Source,
    modalities: Mapping[str, Modality],
    places: Mapping[str, str],
    tasks: Mapping[str, Task],
    part: str,
    max_bad: float,
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
        raise UserError("the data has no such split", received=part, allowed=list(source.sizes))
    route = filters.column(tasks)
    table = survey(source, modalities, places, _columns(tasks, route), localization_targets.columns(tasks))
    _check_bad(table, max_bad, "--max_bad")
    wanted = (table.split != "") & ((table.split == part) | (part == ""))
    if not wanted.any():
        raise UserError("no sample of this split can be read", received=part)
    table = dataclasses.replace(table, split=np.where(wanted, "test", "").astype(object))
    for head, task in tasks.items():
        own = filters.own(table, task, head, route)
        if task.single:
            class_names.check_single(own, task.column)
        asked = class_names.classes(table.columns[task.column][own.split == "test"])
        if unknown := sorted(set(asked) - set(task.labels.names)):
            raise UserError("a label that the model does not know", received=unknown[0], allowed=task.labels.names)
    return table


def _columns(tasks: Mapping[str, Task], route: str) -> tuple[str, ...]:
    """Those that heads read, and that says which of them is asked."""
    return tuple(dict.fromkeys(filter(None, [*(task.column for task in tasks.values()), route])))


def _check_bad(table: Table, max_bad: float, flag: str) -> None:
    bad, count = table.bad, len(table.file)
    if len(bad) / count > max_bad or len(bad) == count:
        shown = "; ".join(f"{file}: {why}" for file, why in bad[:3]) + (", ..." if len(bad) > 3 else "")
        todo = "mend or remove them" if len(bad) == count else f"mend or remove them, or raise {flag}"
        allowed = f"a share of {max_bad}"
        raise UserError(f"{len(bad)} of {count} samples cannot be read", received=shown, allowed=allowed, todo=todo)
    if bad:
        progress.say(f"{len(bad)} of {count} samples cannot be read and are left out; the report lists them")


def labelled(
    data: str, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], split: str, max_bad: float
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
    source = SOURCES.build(recognize(data))
    columns = placed(source, modalities)
    table = opened(source, modalities, columns, tasks, split, max_bad)
    return Data(source, table, modalities, columns, tasks, (), 32, Order(0))
