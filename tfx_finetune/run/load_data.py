"""Loads the data of a run: its samples, splits, classes and heads."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import class_names, filters, localization_targets, mixture, multi_sample, source_splits
from tfx_finetune.datasets.label_map import apply_label_map
from tfx_finetune.datasets.labeled import check_unreadable, list_target_columns
from tfx_finetune.datasets.mixture_weights import compute_sampling_weights
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.datasets.survey import assign_columns, survey
from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.ops.tf_data import get_schema
from tfx_finetune.run.resources import NO_RESOURCES, Resources
from tfx_finetune.tasks import routing
from tfx_finetune.tasks.routing import make_task_template
from tfx_finetune.tasks.translations import add_translations, load_translations
from tfx_finetune.types.components import TASKS, Modality, PretrainedCfg, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import SLICE_COLUMNS, Table
from tfx_finetune.types.task import ClassLabels, Task


def prepare_data(plan: Plan, pretrained_cfgs: Mapping[str, PretrainedCfg], resources: Resources = NO_RESOURCES) -> Data:
    """Open, survey and split the data of a run, and build the heads for its classes.

    Args:
        plan: Validated options of the run.
        pretrained_cfgs: Input configuration of each tower's backbone.
        resources: Bundles and tables that the options open.

    Raises:
        UserError: If the data cannot be used.
    """
    modalities = {
        tower: build_modality(plan.run, kind, pretrained_cfgs[tower]) for tower, kind in plan.modalities.items()
    }
    return load_train_data(plan, modalities, resources)


def load_train_data(plan: Plan, modalities: Mapping[str, Modality], resources: Resources = NO_RESOURCES) -> Data:
    """Open, survey and split the data of a run for these modalities by tower; see `prepare_data`."""
    run = plan.run
    source = mixture.open_sources(plan.sources)
    multi_sample.check_source(source, plan.augments)
    tower_columns = assign_columns(source, modalities)
    mixture.check_tower_columns(source, tower_columns)
    for column, count in Counter(tower_columns.values()).items():
        if count > 1:
            towers = " and ".join(tower for tower, name in tower_columns.items() if name == column)
            progress.log(f"{towers} read the same column: {column}")
    table = _survey(plan, source, modalities, tower_columns)
    table, source = apply_label_map(table, source, resources.label_map)
    head_specs = resolve_head_specs(plan, table, resources.language_extension)
    if plan.heads_by:
        table = routing.apply_unknown_group_policy(table, plan.heads_by, head_specs, run.unknown_group)
    label_columns = list_target_columns(plan.task_templates, plan.heads_by)
    table = _assign_splits(table, source, plan)
    table = filters.filter_samples(table, label_columns, run, bool(plan.auxiliary_losses))
    tasks = _build_tasks(plan, table, source, head_specs, resources.language_extension)
    _check_test_split(table, source, tasks)
    weights, num_samples = compute_sampling_weights(table, tasks, run)
    modality_dropout = run.modality_dropout if len(modalities) > 1 else 0.0
    sampler = EpochSampler(run.seed, plan.batch_augments, weights, modality_dropout, num_samples)
    augments = tuple(plan.augments.values())
    return Data(source, table, modalities, tower_columns, tasks, augments, run.batch_size, sampler, head_specs)


def resolve_head_specs(plan: Plan, table: Table, language_extension: LanguageExtension | None) -> dict[str, Spec]:
    """Return the task specs by head: one head per value of `--heads_by`, or the heads of an extended bundle."""
    if language_extension:
        language_extension.check(table)
        return language_extension.heads
    return routing.expand_heads(plan.heads, plan.heads_by, table)


def _survey(plan: Plan, source: Source, modalities: Mapping[str, Modality], tower_columns: Mapping[str, str]) -> Table:
    """Read all samples once, and return their table with every column that the run needs."""
    columns = (
        *list_target_columns(plan.task_templates, plan.heads_by),
        *filters.list_filter_columns(plan.run, get_schema(source)),
        *(objective.column for objective in plan.auxiliary_losses.values()),
    )
    localization_columns = localization_targets.map_localization_columns(plan.task_templates)
    table = survey(source, modalities, tower_columns, columns, localization_columns)
    check_unreadable(table, plan.run.max_unreadable, "--max_unreadable")
    return table


def _build_tasks(
    plan: Plan, table: Table, source: Source, specs: Mapping[str, Spec], language_extension: LanguageExtension | None
) -> dict[str, Task]:
    """Build the heads for the classes of their samples, or for the classes of an earlier bundle."""
    translations = {}
    if plan.label_translations:
        columns = [template.column for template in plan.task_templates.values()]
        translations = load_translations(plan.label_translations, columns)
    tasks = {}
    for head, spec in specs.items():
        template = make_task_template(spec)
        samples = filters.select_head_samples(table, template, head, plan.heads_by)
        is_new = not language_extension or head == language_extension.language
        if is_new and template.heads_by and not (samples.size("train") and samples.size("test")):
            got = f"{samples.size('train')} to train on, {samples.size('test')} to test on"
            message = f"The head of {template.heads_by} {head} has too few samples"
            raise UserError(message, got=got, hint="add samples, or leave these samples out")
        labels = language_extension.get_fixed_labels(head, template, samples) if language_extension else None
        if not labels:
            labels = _collect_labels(template, table, samples, source)
            labels = add_translations(labels, translations.get(template.column, {}))
        tasks[head] = TASKS.build(spec, labels)
    return tasks


def _collect_labels(template: Task, table: Table, samples: Table, source: Source) -> ClassLabels:
    """Return the classes of a head; a head that is tied to the shared head has the classes of all samples."""
    labels = class_names.collect_labels(table if template.l2_to_shared else samples, source, template)
    if template.l2_to_shared:
        counts = Counter(class_names.iterate_classes(samples.columns[template.column][samples.split == "train"]))
        labels = ClassLabels(labels.names, tuple(counts[name] for name in labels.names), samples.size("train"))
    return labels


def _check_test_split(table: Table, source: Source, tasks: Mapping[str, Task]) -> None:
    """Check that every head has samples to test on.

    Raises:
        UserError: If the test split is empty or has no annotations.
    """
    if not table.size("test"):
        hint = "add samples that are not copies or of one group, or give the data a test split"
        raise UserError("The test split has no samples", got=source.name, hint=hint)
    for head, task in tasks.items():
        if task.localization and not any(table.columns[task.column][table.split == "test"]):
            got = f"{table.size('test')} images of {source.name} without {task.column}"
            hint = "name an annotated split, such as test='validation', or none to take a part of the training split"
            raise UserError(f"The test split has no annotations for {head}", got=got, hint=hint)


def _assign_splits(table: Table, source: Source, plan: Plan) -> Table:
    """Divide the training samples into the splits that the source does not have."""
    templates = {head: template for head, template in plan.task_templates.items() if not template.zero_shot}
    columns = list_target_columns(templates, plan.heads_by)
    split, warnings = source_splits.assign_splits(table, source, columns, plan.run.split, plan.run.seed)
    warnings = (*table.warnings, *_warn_about_split(table, split), *warnings)
    return dataclasses.replace(table, split=split, warnings=warnings)


def _warn_about_split(table: Table, split: np.ndarray) -> Iterator[str]:
    """Yield warnings about duplicates and about groups that are in several splits."""
    used = split != ""
    digests, splits = table.digest[used], split[used]
    if duplicates := len(digests) - len(set(digests)):
        yield f"{duplicates} samples are exact duplicates; a split made here keeps duplicates together"
    if count := _count_inconsistent(digests, splits):
        yield f"{count} samples are in more than one split of the data"
    for column, values in table.columns.items():
        if column == "group":
            has_group = values[used] != ""
            if count := _count_inconsistent(values[used][has_group], splits[has_group]):
                yield f"{count} groups are in more than one split of the data"
        elif column not in SLICE_COLUMNS and (count := _count_inconsistent(digests, values[used])):
            yield f"{count} samples have duplicates with another {column}"


def _count_inconsistent(keys: Iterable[str], values: Iterable[str]) -> int:
    """Return the number of keys with more than one value."""
    values_by_key: dict[str, set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        values_by_key.setdefault(key, set()).add(value)
    return sum(len(distinct) > 1 for distinct in values_by_key.values())
