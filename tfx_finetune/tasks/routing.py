"""Heads for one language or source each: selection of the head that is trained on a sample or predicts it."""

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

_GROUP_OPTIONS = ("heads_by", "l2_to_shared", "adapter_dim")
"""Options that only the heads for single groups have."""


def check_heads_by(task_templates: Mapping[str, Task], heads_by: str) -> None:
    """Check that `--heads_by` has a head that predicts one class per sample.

    Raises:
        UserError: If it has none.
    """
    if heads_by and not any(task.single_label for task in task_templates.values()):
        raise UserError(
            "--heads_by needs a head that predicts one class per sample", got=heads_by, expected="classify()"
        )


def expand_heads(heads: Mapping[str, Spec], heads_by: str, table: Table) -> dict[str, Spec]:
    """Return the task specs of all heads, by name.

    A single head with the option `heads_by`, which `--heads_by` sets, becomes: the head `shared` for all samples, a
    head with the name of the column that predicts the group of a sample, and one head per group.

    Args:
        heads: Specs of `--heads`.
        heads_by: Column of `--heads_by`, whose values are the groups; empty for none.
        table: Samples.

    Raises:
        UserError: If a head has the name of no group, or a group has a reserved name.
    """
    if not heads_by:
        return dict(heads)
    groups = sorted(set(table.columns[heads_by][table.error == ""]) - {""})
    if reserved := {SHARED, heads_by} & set(groups):
        raise UserError(f"A value of the column {heads_by} is a reserved head name", got=min(reserved))
    (first, *others) = heads.values()
    if "heads_by" in first.kwargs and not others:
        options = {name: value for name, value in first.kwargs.items() if name not in _GROUP_OPTIONS}
        common_heads = {
            SHARED: Spec(first.name, first.args, options),
            heads_by: Spec(first.name, (), {"column": heads_by}),
        }
        return common_heads | dict.fromkeys(groups, first)
    specs = {}
    for head, spec in heads.items():
        if head not in (*groups, SHARED, heads_by):
            hint = did_you_mean(head, groups)
            raise UserError(f"--heads has a head for a {heads_by} without data", got=head, expected=groups, hint=hint)
        if head in groups:
            spec = Spec(spec.name, spec.args, {**spec.kwargs, "heads_by": heads_by, "l2_to_shared": 0})
        elif head == heads_by:
            spec = Spec(spec.name, spec.args, {"column": heads_by, **spec.kwargs})
        specs[head] = spec
    return specs


def apply_unknown_group_policy(table: Table, heads_by: str, heads: Mapping[str, Spec], policy: str) -> Table:
    """Apply `--unknown_group` to the samples whose group has no head.

    Args:
        table: Samples.
        heads_by: Column of `--heads_by`.
        heads: Specs by head.
        policy: `fail`, `skip`, or `shared`, for which only the head `shared` is trained on these samples.

    Raises:
        UserError: If there are such samples and the policy neither skips them nor finds a shared head.
    """
    groups = table.columns[heads_by]
    has_no_head = (table.error == "") & ~np.isin(groups.astype(str), list(heads))
    if not has_no_head.any():
        return table
    message = f"{has_no_head.sum()} of {len(has_no_head)} samples have a {heads_by} without a head"
    if policy == "skip":
        progress.log(f"{message} and are left out; the report lists them")
        errors = np.array([f"no head for {heads_by} {group or '(none)'}" for group in groups], object)
        return dataclasses.replace(
            table,
            error=np.where(has_no_head, errors, table.error),
            split=np.where(has_no_head, "", table.split).astype(object),
        )
    if policy == "shared" and SHARED in heads:
        progress.log(f"{message}; only the head {SHARED} is trained on them")
        return table
    hint = "say --unknown_group=skip" + (", or --unknown_group=shared" if SHARED in heads else "")
    examples = ", ".join(
        f"{file} ({group or 'none'})"
        for file, group in zip(table.file[has_no_head][:3], groups[has_no_head], strict=False)
    )
    raise UserError(message, got=examples, hint=hint)


def select_prediction(tasks: Mapping[str, Task], scores: Mapping[str, np.ndarray], group: str) -> dict[str, Any]:
    """Return the prediction of the head for a sample's group.

    Args:
        tasks: Tasks by head.
        scores: Decoded scores of one sample by head, (classes,).
        group: Language or source of the sample; empty if unknown, for which the head that predicts it decides.

    Returns:
        The fields of the group's head and the group. If the group has no head: the fields of the head `shared`, or of
        every head by its name if there is no such head.

    Raises:
        UserError: If there is neither a head for the group nor a shared head.
    """
    predictions = {head: task.format_prediction(scores[head]) for head, task in tasks.items()}
    heads_by = get_heads_by(tasks)
    if not heads_by:
        return next(iter(predictions.values())) if len(predictions) == 1 else predictions
    groups = [head for head, task in tasks.items() if task.heads_by]
    if group and group not in groups and SHARED not in predictions:
        hint = did_you_mean(group, groups)
        raise UserError(f"The model has no head for this {heads_by}", got=group, expected=groups, hint=hint)
    if not group and heads_by in predictions:
        group = predictions[heads_by]["label"]
    if group in groups:
        return {heads_by: group} | predictions[group]
    return {heads_by: group} | predictions[SHARED] if SHARED in predictions else predictions


def make_task_template(head: Spec) -> Task:
    """Build the task of a head for two classes, to check its options and read its properties before data is read."""
    return TASKS.build(head, ClassLabels(("a", "b"), (1, 1), 2))
