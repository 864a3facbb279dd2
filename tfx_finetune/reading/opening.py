"""Opens the data of a run, or labelled data for a model: its samples, splits, and heads for its classes."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfx_finetune.contracts import TASKS, Labels, Modality, Source, Task
from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.dataset import schema
from tfx_finetune.languages import routing
from tfx_finetune.languages.translations import Names, names_of, translated
from tfx_finetune.plan import Plan, draft_of
from tfx_finetune.reading import chosen, classes, located, mixed, partners, sides
from tfx_finetune.reading.renamed import renamed
from tfx_finetune.reading.samples import Table
from tfx_finetune.reading.survey import placed, survey


def load(plan: Plan, modalities: Mapping[str, Modality]) -> tuple[Source, dict[str, str], Table, dict[str, Task]]:
    """Opens the source, surveys it, splits it, and collects the classes of every head.

    Returns:
        The source, the column that each tower takes, the samples and the heads.

    Raises:
        UserError: The data cannot be used as it is; the message says why.
    """
    source = mixed.open_sources(plan.sources)
    partners.check_source(source, plan.augments)
    places = placed(source, modalities)
    mixed.check_places(source, places)
    labels, chosen_by = _columns(plan.drafts, plan.route), chosen.wanted(plan.run, schema(source))
    compared = (objective.column for objective in plan.objectives.values())
    table = survey(source, modalities, places, (*labels, *chosen_by, *compared), located.columns(plan.drafts))
    _check_bad(table, plan.run.samples.max_bad, "--samples.max_bad")
    table, called = renamed(table, source, plan.renaming)
    specs = specs_of(plan, table)
    if plan.route:
        table = routing.routed(table, plan.route, specs, plan.run.unrouted)
    table = chosen.chosen(_split(table, source, plan), labels, plan.run, bool(plan.objectives))
    names = names_of(plan.names, [draft.column for draft in plan.drafts.values()]) if plan.names else {}
    tasks = {head: _task(head, spec, table, called, plan, names) for head, spec in specs.items()}
    if not table.size("test"):
        todo = "give it a test split of its own, or more samples that are not copies or of one group"
        raise UserError("no sample is left to test on", received=source.name, todo=todo)
    for head, task in tasks.items():
        if task.places and not any(table.columns[task.column][table.split == "test"]):
            received = f"{table.size('test')} pictures of {source.name} without {task.column}"
            todo = "name a split that is annotated, as by test='validation', or none, and a part of train is taken"
            raise UserError(f"nothing to test {head} on", received=received, todo=todo)
    return called, places, table, tasks


def specs_of(plan: Plan, table: Table) -> dict[str, Spec]:
    """The heads by name: as the data has languages, or those of a bundle and that of the language which is added."""
    if plan.growth:
        plan.growth.check(table)
        return plan.growth.heads
    return routing.expanded(plan.heads, plan.route, table)


def _task(head: str, spec: Spec, table: Table, source: Source, plan: Plan, names: Mapping[str, Names]) -> Task:
    """A head for the classes that its samples have, or that an earlier bundle had, with their names by language."""
    draft = draft_of(spec)
    own = routing.own(table, draft, head, plan.route)
    if plan.growth and head != plan.growth.language:
        return TASKS.build(spec, plan.growth.known(head, draft, own))
    if draft.per and not (own.size("train") and own.size("test")):
        received = f"{draft.per} {head}: {own.size('train')} to learn from, {own.size('test')} to test on"
        raise UserError(
            "too few samples for a head of their own", received=received, todo="leave them out, or add some"
        )
    if plan.growth and (known := plan.growth.known(head, draft, own)):
        return TASKS.build(spec, known)
    found = classes.labels(table if draft.pool else own, source, draft)
    if draft.pool:  # the classes of all, of which it may have seen few
        counts = Counter(classes.classes(own.columns[draft.column][own.split == "train"]))
        found = Labels(found.names, tuple(counts[name] for name in found.names), own.size("train"))
    return TASKS.build(spec, translated(found, names.get(draft.column, {})))


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
    route = routing.column(tasks)
    table = survey(source, modalities, places, _columns(tasks, route), located.columns(tasks))
    _check_bad(table, max_bad, "--max_bad")
    wanted = (table.split != "") & ((table.split == part) | (part == ""))
    if not wanted.any():
        raise UserError("no sample of this split can be read", received=part)
    table = dataclasses.replace(table, split=np.where(wanted, "test", "").astype(object))
    for head, task in tasks.items():
        own = routing.own(table, task, head, route)
        if task.single:
            classes.check_single(own, task.column)
        asked = classes.classes(table.columns[task.column][own.split == "test"])
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


def _split(table: Table, source: Source, plan: Plan) -> Table:
    """Carves the splits that the source lacks out of its training part."""
    columns = _columns({head: draft for head, draft in plan.drafts.items() if not draft.space}, plan.route)
    split, notes = sides.divided(table, source, columns, plan.run.samples, plan.run.seed)
    return dataclasses.replace(table, split=split, notes=(*table.notes, *_notes(table, split), *notes))


def _notes(table: Table, split: np.ndarray) -> Iterator[str]:
    used = split != ""
    digest, side = table.digest[used], split[used]
    if extra := len(digest) - len(set(digest)):
        yield f"{extra} samples are exact copies of another one; copies are kept on one side of a split made here"
    if count := _scattered(digest, side):
        yield f"{count} samples stand in more than one of the splits that the data came with"
    for column, values in table.columns.items():
        if column == "group":
            grouped = values[used] != ""
            if count := _scattered(values[used][grouped], side[grouped]):
                yield f"{count} groups stand in more than one of the splits that the data came with"
        elif column not in routing.LANES and (count := _scattered(digest, values[used])):
            yield f"{count} samples have copies with another {column}"


def _scattered(keys: Iterable[str], values: Iterable[str]) -> int:
    """How many keys have more than one value."""
    found: dict[str, set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, set()).add(value)
    return sum(len(several) > 1 for several in found.values())
