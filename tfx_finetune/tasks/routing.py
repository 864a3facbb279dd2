"""Which head is asked about which samples: one a language, or a source, on towers that all share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.filters import column
from tfx_finetune.types.components import SHARED, TASKS, Labels, Task
from tfx_finetune.types.table import Table


def routes(heads: Mapping[str, Spec], drafts: Mapping[str, Task], route: str) -> str:
    """The column that tells which head answers a sample; empty where every head answers all.

    Raises:
        UserError: Heads and `--route` do not go together.
    """
    per = {head: task.per for head, task in drafts.items() if task.per}
    if per and len(heads) > 1:
        todo = "give each language a head by its name, with --route, or have this one alone"
        raise UserError("a head with per= makes all heads", received=", ".join(map(str, heads.values())), todo=todo)
    column = next(iter(per.values()), "")
    if column and route not in ("", column):
        raise UserError("--route is not what the head says", received=route, allowed=column)
    if route and not per and all(not task.single for task in drafts.values()):
        raise UserError("--route takes heads of one class a sample", received=route, allowed="classify()")
    return column or route


def expanded(heads: Mapping[str, Spec], route: str, table: Table) -> dict[str, Spec]:
    """The heads by name: those with `per` become one for all, one that tells the value, and one a value.

    Args:
        heads: As they were given.
        route: The column; empty where nothing is routed.
        table: The samples.

    Raises:
        UserError: A head has the name of no value, or a value that of another head.
    """
    if not route:
        return dict(heads)
    known = sorted(set(table.columns[route][table.reason == ""]) - {""})
    if taken := {SHARED, route} & set(known):
        raise UserError(f"a {route} cannot have this name, which is that of a head", received=min(taken))
    (spec, *others) = heads.values()
    if "per" in spec.kwargs and not others:
        plain = {name: value for name, value in spec.kwargs.items() if name not in ("per", "pool", "adapter")}
        every = {SHARED: Spec(spec.name, spec.args, plain), route: Spec(spec.name, (), {"column": route})}
        return every | dict.fromkeys(known, spec)
    found = {}
    for head, own in heads.items():
        if head not in (*known, SHARED, route):
            todo = did_you_mean(head, known)
            raise UserError(f"a head for a {route} that the data lacks", received=head, allowed=known, todo=todo)
        if head in known:
            own = Spec(own.name, own.args, {**own.kwargs, "per": route, "pool": 0})
        elif head == route:
            own = Spec(own.name, own.args, {"column": route, **own.kwargs})
        found[head] = own
    return found


def routed(table: Table, route: str, heads: Mapping[str, Spec], policy: str) -> Table:
    """The table, its samples without a head of their own dealt with as `--unrouted` says.

    Raises:
        UserError: There are such samples, and they are neither to be skipped nor answered by a shared head.
    """
    lanes = table.columns[route]
    lost = (table.reason == "") & ~np.isin(lanes.astype(str), list(heads))
    if not lost.any():
        return table
    what = f"{lost.sum()} of {len(lost)} samples have no head of their {route}"
    if policy == "skip":
        progress.say(f"{what} and are left out; the report lists them")
        why = np.array([f"no head for {route} {lane or '(none)'}" for lane in lanes], object)
        return dataclasses.replace(
            table, reason=np.where(lost, why, table.reason), split=np.where(lost, "", table.split).astype(object)
        )
    if policy == "shared" and SHARED in heads:
        progress.say(f"{what}; the head {SHARED} alone learns from them")
        return table
    todo = "say --unrouted=skip" + (", or --unrouted=shared" if SHARED in heads else "")
    shown = ", ".join(
        f"{file} ({lane or 'none'})" for file, lane in zip(table.file[lost][:3], lanes[lost], strict=False)
    )
    raise UserError(what, received=shown, todo=todo)


def answered(tasks: Mapping[str, Task], scores: Mapping[str, np.ndarray], lane: str) -> dict[str, Any]:
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
    said = {head: task.predict(scores[head]) for head, task in tasks.items()}
    route = column(tasks)
    if not route:
        return next(iter(said.values())) if len(said) == 1 else said
    own = [head for head, task in tasks.items() if task.per]
    if lane and lane not in own and SHARED not in said:
        todo = did_you_mean(lane, own)
        raise UserError(f"the model has no head for this {route}", received=lane, allowed=own, todo=todo)
    if not lane and route in said:
        lane = said[route]["label"]
    if lane in own:
        return {route: lane} | said[lane]
    return {route: lane} | said[SHARED] if SHARED in said else said


def draft_of(head: Spec) -> Task:
    """The head as it would be for two classes."""
    return TASKS.build(head, Labels(("a", "b"), (1, 1), 2))
