"""Opens the data of a run, or labelled data for a model: its samples, splits, and heads for its classes."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import class_names, filters, localization_targets, mixture, multi_sample, source_splits
from tfx_finetune.datasets.label_map import renamed
from tfx_finetune.datasets.labeled import _check_bad, _columns
from tfx_finetune.datasets.mixture_weights import drawing
from tfx_finetune.datasets.modalities.build import modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import Order
from tfx_finetune.datasets.survey import placed, survey
from tfx_finetune.models.add_language import Growth
from tfx_finetune.ops.tf_data import schema
from tfx_finetune.run.resources import Resources
from tfx_finetune.tasks import routing
from tfx_finetune.tasks.routing import draft_of
from tfx_finetune.tasks.translations import names_of, translated
from tfx_finetune.types.components import TASKS, Card, Labels, Modality, Source, Task
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import LANES, Table

_NONE = Resources()


def load(
    plan: Plan, modalities: Mapping[str, Modality], resources: Resources
) -> tuple[Source, dict[str, str], Table, dict[str, Task], dict[str, Spec]]:
    """Opens the source, surveys it, splits it, and collects the classes of every head.

    Returns:
        The source, the column that each tower takes, the samples, the heads and their specs.

    Raises:
        UserError: The data cannot be used as it is; the message says why.
    """
    source = mixture.open_sources(plan.sources)
    multi_sample.check_source(source, plan.augments)
    places = placed(source, modalities)
    mixture.check_places(source, places)
    labels, chosen_by = _columns(plan.drafts, plan.route), filters.wanted(plan.run, schema(source))
    compared = (objective.column for objective in plan.objectives.values())
    table = survey(
        source, modalities, places, (*labels, *chosen_by, *compared), localization_targets.columns(plan.drafts)
    )
    _check_bad(table, plan.run.samples.max_bad, "--samples.max_bad")
    table, called = renamed(table, source, resources.renaming)
    specs = specs_of(plan, table, resources.growth)
    if plan.route:
        table = routing.routed(table, plan.route, specs, plan.run.unrouted)
    table = filters.chosen(_split(table, source, plan), labels, plan.run, bool(plan.objectives))
    tasks = _tasks(plan, table, called, specs, resources.growth)
    if not table.size("test"):
        todo = "give it a test split of its own, or more samples that are not copies or of one group"
        raise UserError("no sample is left to test on", received=source.name, todo=todo)
    for head, task in tasks.items():
        if task.places and not any(table.columns[task.column][table.split == "test"]):
            received = f"{table.size('test')} pictures of {source.name} without {task.column}"
            todo = "name a split that is annotated, as by test='validation', or none, and a part of train is taken"
            raise UserError(f"nothing to test {head} on", received=received, todo=todo)
    return called, places, table, tasks, specs


def specs_of(plan: Plan, table: Table, growth: Growth | None) -> dict[str, Spec]:
    """The heads by name: as the data has languages, or those of a bundle and that of the language which is added."""
    if growth:
        growth.check(table)
        return growth.heads
    return routing.expanded(plan.heads, plan.route, table)


def _tasks(
    plan: Plan, table: Table, source: Source, specs: Mapping[str, Spec], growth: Growth | None
) -> dict[str, Task]:
    """Builds the heads for the classes that their samples have, or that an earlier bundle had."""
    names = names_of(plan.names, [draft.column for draft in plan.drafts.values()]) if plan.names else {}
    tasks = {}
    for head, spec in specs.items():
        draft = draft_of(spec)
        own = filters.own(table, draft, head, plan.route)
        is_new = not growth or head == growth.language
        if is_new and draft.per and not (own.size("train") and own.size("test")):
            received = f"{draft.per} {head}: {own.size('train')} to learn from, {own.size('test')} to test on"
            todo = "leave them out, or add some"
            raise UserError("too few samples for a head of their own", received=received, todo=todo)
        labels = growth.known(head, draft, own) if growth else None
        if not labels:
            labels = translated(_labels(draft, table, own, source), names.get(draft.column, {}))
        tasks[head] = TASKS.build(spec, labels)
    return tasks


def _labels(draft: Task, table: Table, own: Table, source: Source) -> Labels:
    """The classes that the samples of a head have."""
    found = class_names.labels(table if draft.pool else own, source, draft)
    if draft.pool:  # the classes of all, of which it may have seen few
        counts = Counter(class_names.classes(own.columns[draft.column][own.split == "train"]))
        found = Labels(found.names, tuple(counts[name] for name in found.names), own.size("train"))
    return found


def _split(table: Table, source: Source, plan: Plan) -> Table:
    """Carves the splits that the source lacks out of its training part."""
    columns = _columns({head: draft for head, draft in plan.drafts.items() if not draft.space}, plan.route)
    split, notes = source_splits.divided(table, source, columns, plan.run.samples, plan.run.seed)
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
        elif column not in LANES and (count := _scattered(digest, values[used])):
            yield f"{count} samples have copies with another {column}"


def _scattered(keys: Iterable[str], values: Iterable[str]) -> int:
    """How many keys have more than one value."""
    found: dict[str, set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, set()).add(value)
    return sum(len(several) > 1 for several in found.values())


def prepare_data(plan: Plan, cards: Mapping[str, Card], resources: Resources = _NONE) -> Data:
    """Opens, surveys and splits the data of a run, and makes the tasks for its classes.

    Args:
        plan: The run.
        cards: Of the backbones that the samples are prepared for, by tower.
        resources: What the options of the run opened.

    Raises:
        UserError: The data cannot be used as it is.
    """
    modalities = {tower: modality(plan.run, kind, cards[tower]) for tower, kind in plan.modalities.items()}
    source, columns, table, tasks, specs = load(plan, modalities, resources)
    for column in dict.fromkeys(columns.values()):
        if len(several := [tower for tower, own in columns.items() if own == column]) > 1:
            progress.say(f"{' and '.join(several)} read the same column: {column}")
    run = plan.run
    chances, drawn = drawing(table, tasks, run)
    order = Order(run.seed, plan.mixes, chances, run.drop_towers if len(modalities) > 1 else 0.0, drawn)
    augments = tuple(plan.augments.values())
    return Data(source, table, modalities, columns, tasks, augments, run.batch_size, order, specs)
