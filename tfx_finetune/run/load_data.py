"""Opens the data of a run, or labelled data for a model: its samples, splits, and heads for its classes."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import class_names, filters, localization_targets, mixture, multi_sample, source_splits
from tfx_finetune.datasets.label_map import apply_label_map
from tfx_finetune.datasets.labeled import _check_unreadable, _list_target_columns
from tfx_finetune.datasets.mixture_weights import compute_sampling_weights
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.datasets.survey import assign_columns, survey
from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.ops.tf_data import get_schema
from tfx_finetune.run.resources import Resources
from tfx_finetune.tasks import routing
from tfx_finetune.tasks.routing import make_task_template
from tfx_finetune.tasks.translations import add_translations, load_translations
from tfx_finetune.types.components import TASKS, ClassLabels, Modality, PretrainedCfg, Source, Task
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import SLICE_COLUMNS, Table

_NONE = Resources()


def load_train_data(
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
    places = assign_columns(source, modalities)
    mixture.check_tower_columns(source, places)
    labels, chosen_by = (
        _list_target_columns(plan.task_templates, plan.heads_by),
        filters.list_filter_columns(plan.run, get_schema(source)),
    )
    compared = (objective.column for objective in plan.auxiliary_losses.values())
    table = survey(
        source,
        modalities,
        places,
        (*labels, *chosen_by, *compared),
        localization_targets.map_localization_columns(plan.task_templates),
    )
    _check_unreadable(table, plan.run.max_unreadable, "--max_unreadable")
    table, called = apply_label_map(table, source, resources.label_map)
    specs = resolve_head_specs(plan, table, resources.language_extension)
    if plan.heads_by:
        table = routing.apply_unknown_group_policy(table, plan.heads_by, specs, plan.run.unknown_group)
    table = filters.filter_samples(_assign_splits(table, source, plan), labels, plan.run, bool(plan.auxiliary_losses))
    tasks = _build_tasks(plan, table, called, specs, resources.language_extension)
    if not table.size("test"):
        todo = "give it a test split of its own, or more samples that are not copies or of one group"
        raise UserError("no sample is left to test on", got=source.name, hint=todo)
    for head, task in tasks.items():
        if task.localization and not any(table.columns[task.column][table.split == "test"]):
            received = f"{table.size('test')} pictures of {source.name} without {task.column}"
            todo = "name a split that is annotated, as by test='validation', or none, and a part of train is taken"
            raise UserError(f"nothing to test {head} on", got=received, hint=todo)
    return called, places, table, tasks, specs


def resolve_head_specs(plan: Plan, table: Table, growth: LanguageExtension | None) -> dict[str, Spec]:
    """The heads by name: as the data has languages, or those of a bundle and that of the language which is added."""
    if growth:
        growth.check(table)
        return growth.heads
    return routing.expand_heads(plan.heads, plan.heads_by, table)


def _build_tasks(
    plan: Plan, table: Table, source: Source, specs: Mapping[str, Spec], language_extension: LanguageExtension | None
) -> dict[str, Task]:
    """Builds the heads for the classes that their samples have, or that an earlier bundle had."""
    names = (
        load_translations(plan.label_translations, [draft.column for draft in plan.task_templates.values()])
        if plan.label_translations
        else {}
    )
    tasks = {}
    for head, spec in specs.items():
        draft = make_task_template(spec)
        own = filters.select_head_samples(table, draft, head, plan.heads_by)
        is_new = not language_extension or head == language_extension.language
        if is_new and draft.heads_by and not (own.size("train") and own.size("test")):
            received = f"{draft.heads_by} {head}: {own.size('train')} to learn from, {own.size('test')} to test on"
            todo = "leave them out, or add some"
            raise UserError("too few samples for a head of their own", got=received, hint=todo)
        labels = language_extension.get_fixed_labels(head, draft, own) if language_extension else None
        if not labels:
            labels = add_translations(_collect_labels(draft, table, own, source), names.get(draft.column, {}))
        tasks[head] = TASKS.build(spec, labels)
    return tasks


def _collect_labels(draft: Task, table: Table, own: Table, source: Source) -> ClassLabels:
    """The classes that the samples of a head have."""
    found = class_names.collect_labels(table if draft.l2_to_shared else own, source, draft)
    if draft.l2_to_shared:  # the classes of all, of which it may have seen few
        counts = Counter(class_names.iterate_classes(own.columns[draft.column][own.split == "train"]))
        found = ClassLabels(found.names, tuple(counts[name] for name in found.names), own.size("train"))
    return found


def _assign_splits(table: Table, source: Source, plan: Plan) -> Table:
    """Carves the splits that the source lacks out of its training part."""
    columns = _list_target_columns(
        {head: draft for head, draft in plan.task_templates.items() if not draft.zero_shot}, plan.heads_by
    )
    split, notes = source_splits.assign_splits(table, source, columns, plan.run.split, plan.run.seed)
    return dataclasses.replace(table, split=split, warnings=(*table.warnings, *_warn_about_split(table, split), *notes))


def _warn_about_split(table: Table, split: np.ndarray) -> Iterator[str]:
    used = split != ""
    digest, side = table.digest[used], split[used]
    if extra := len(digest) - len(set(digest)):
        yield f"{extra} samples are exact copies of another one; copies are kept on one side of a split made here"
    if count := _count_inconsistent(digest, side):
        yield f"{count} samples stand in more than one of the splits that the data came with"
    for column, values in table.columns.items():
        if column == "group":
            grouped = values[used] != ""
            if count := _count_inconsistent(values[used][grouped], side[grouped]):
                yield f"{count} groups stand in more than one of the splits that the data came with"
        elif column not in SLICE_COLUMNS and (count := _count_inconsistent(digest, values[used])):
            yield f"{count} samples have copies with another {column}"


def _count_inconsistent(keys: Iterable[str], values: Iterable[str]) -> int:
    """How many keys have more than one value."""
    found: dict[str, set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, set()).add(value)
    return sum(len(several) > 1 for several in found.values())


def prepare_data(plan: Plan, pretrained_cfgs: Mapping[str, PretrainedCfg], resources: Resources = _NONE) -> Data:
    """Opens, surveys and splits the data of a run, and makes the tasks for its classes.

    Args:
        plan: The run.
        cards: Of the backbones that the samples are prepared for, by tower.
        resources: What the options of the run opened.

    Raises:
        UserError: The data cannot be used as it is.
    """
    modalities = {
        tower: build_modality(plan.run, kind, pretrained_cfgs[tower]) for tower, kind in plan.modalities.items()
    }
    source, columns, table, tasks, specs = load_train_data(plan, modalities, resources)
    for column in dict.fromkeys(columns.values()):
        if len(several := [tower for tower, own in columns.items() if own == column]) > 1:
            progress.log(f"{' and '.join(several)} read the same column: {column}")
    run = plan.run
    chances, drawn = compute_sampling_weights(table, tasks, run)
    order = EpochSampler(
        run.seed, plan.batch_augments, chances, run.modality_dropout if len(modalities) > 1 else 0.0, drawn
    )
    augments = tuple(plan.augments.values())
    return Data(source, table, modalities, columns, tasks, augments, run.batch_size, order, specs)
