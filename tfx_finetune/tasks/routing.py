"""Which head is asked about which samples: one a language, or a source, on towers that all share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.filters import get_heads_by
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import SHARED, ClassLabels, Task


def check_heads_by(task_templates: Mapping[str, Task], heads_by: str) -> None:
    """Check that `--heads_by` has a head that predicts one class per sample.

    Raises:
        UserError: If it has none.
    """
    if heads_by and not any(task.single_label for task in task_templates.values()):
        raise UserError("--heads_by needs a head that predicts one class per sample", got=heads_by, expected="classify()")


def expand_heads(heads: Mapping[str, Spec], heads_by: str, table: Table) -> dict[str, Spec]:
    """The heads by name: those with `per` become one for all, one that tells the value, and one a value.

    Args:
        heads: As they were given.
        route: The column; empty where nothing is routed.
        table: The samples.

    Raises:
        UserError: A head has the name of no value, or a value that of another head.
    """
    if not heads_by:
        return dict(heads)
    known = sorted(set(table.columns[heads_by][table.error == ""]) - {""})
    if taken := {SHARED, heads_by} & set(known):
        raise UserError(f"a {heads_by} cannot have this name, which is that of a head", got=min(taken))
    (spec, *others) = heads.values()
    if "per" in spec.kwargs and not others:
        plain = {name: value for name, value in spec.kwargs.items() if name not in ("per", "pool", "adapter")}
        every = {SHARED: Spec(spec.name, spec.args, plain), heads_by: Spec(spec.name, (), {"column": heads_by})}
        return every | dict.fromkeys(known, spec)
    found = {}
    for head, own in heads.items():
        if head not in (*known, SHARED, heads_by):
            todo = did_you_mean(head, known)
            raise UserError(f"a head for a {heads_by} that the data lacks", got=head, expected=known, hint=todo)
        if head in known:
            own = Spec(own.name, own.args, {**own.kwargs, "per": heads_by, "pool": 0})
        elif head == heads_by:
            own = Spec(own.name, own.args, {"column": heads_by, **own.kwargs})
        found[head] = own
    return found


def apply_unknown_group_policy(table: Table, heads_by: str, heads: Mapping[str, Spec], policy: str) -> Table:
    """The table, its samples without a head of their own dealt with as `--unknown_group` says.

    Raises:
        UserError: There are such samples, and they are neither to be skipped nor answered by a shared head.
    """
    lanes = table.columns[heads_by]
    lost = (table.error == "") & ~np.isin(lanes.astype(str), list(heads))
    if not lost.any():
        return table
    what = f"{lost.sum()} of {len(lost)} samples have no head of their {heads_by}"
    if policy == "skip":
        progress.log(f"{what} and are left out; the report lists them")
        why = np.array([f"no head for {heads_by} {lane or '(none)'}" for lane in lanes], object)
        return dataclasses.replace(
            table, error=np.where(lost, why, table.error), split=np.where(lost, "", table.split).astype(object)
        )
    if policy == "shared" and SHARED in heads:
        progress.log(f"{what}; the head {SHARED} alone learns from them")
        return table
    todo = "say --unknown_group=skip" + (", or --unknown_group=shared" if SHARED in heads else "")
    shown = ", ".join(
        f"{file} ({lane or 'none'})" for file, lane in zip(table.file[lost][:3], lanes[lost], strict=False)
    )
    raise UserError(what, got=shown, hint=todo)


def select_prediction(tasks: Mapping[str, Task], scores: Mapping[str, np.ndarray], slice_value: str) -> dict[str, Any]:
    """What the heads say of one sample.

    Args:
        tasks: Heads by name.
        scores: Their decoded scores, (classes,), by head.
        lane: The sample's language or source, where it is known; else the head that tells it decides, if there is one.

    Returns:
        The fields of the head that answers and the language or source; where no head of its own answers, those of each
        by its name, unless there is one.

    Raises:
        UserError: No head answers samples of this language or source.
    """
    said = {head: task.format_prediction(scores[head]) for head, task in tasks.items()}
    route = get_heads_by(tasks)
    if not route:
        return next(iter(said.values())) if len(said) == 1 else said
    own = [head for head, task in tasks.items() if task.heads_by]
    if slice_value and slice_value not in own and SHARED not in said:
        todo = did_you_mean(slice_value, own)
        raise UserError(f"the model has no head for this {route}", got=slice_value, expected=own, hint=todo)
    if not slice_value and route in said:
        slice_value = said[route]["label"]
    if slice_value in own:
        return {route: slice_value} | said[slice_value]
    return {route: slice_value} | said[SHARED] if SHARED in said else said


def make_task_template(head: Spec) -> Task:
    """The head as it would be for two classes."""
    return TASKS.build(head, ClassLabels(("a", "b"), (1, 1), 2))
