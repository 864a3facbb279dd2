"""Division of the data into one training task per language, for `--strategy` other than `joint`."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import split_names
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.datasets.mixture_weights import compute_sampling_weights
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.training.merging import MERGES


@dataclass(frozen=True)
class LanguageTask:
    """Training task of one language.

    Attributes:
        phase_suffix: Suffix of the names of its phases, such as `1_en`.
        language: Value of the language in its column.
        heads_by: Column that selects the head of a sample; empty if all heads answer all samples.
        data: Training samples of the task, and the validation samples of the language.
        frozen_heads: Heads that are not trained.
    """

    phase_suffix: str
    language: str
    heads_by: str
    data: Data
    frozen_heads: tuple[str, ...]


def make_language_tasks(data: Data, run: Run, heads_by: str) -> list[LanguageTask]:
    """Divide the data into one training task per language, in the order of training.

    Args:
        data: Samples of all splits.
        run: Options of the run.
        heads_by: Column that selects the head of a sample; empty for the column `language`.

    Raises:
        UserError: If the data has no languages, a single one, or too few validation samples.
    """
    table, column = data.table, heads_by or "language"
    languages = get_sample_languages(data, heads_by)
    order = _order_languages(run, column, languages[table.split == "train"])
    needs_val = run.strategy == "sequential" or not MERGES.build(parse_spec(run.merge)).scale
    if needs_val and not table.size("val"):
        hint = "Raise --split.val, or give the merge a scale"
        raise UserError(f"--strategy={run.strategy} needs validation samples", got=data.source.name, hint=hint)
    validated = set(languages[table.split == "val"])
    if run.strategy == "sequential" and (missing := [language for language in order if language not in validated]):
        message = f"--strategy=sequential needs validation samples of every {column}"
        raise UserError(message, got=f"none of {missing[0]}", hint="Raise --split.val, or add samples")
    return [_make_language_task(data, run, heads_by, order, index) for index in range(len(order))]


def _order_languages(run: Run, column: str, sample_languages: np.ndarray) -> list[str]:
    """Return the languages of the training samples in the order of `--language_order`, otherwise the largest first."""
    names, counts = np.unique(sample_languages[sample_languages != ""].astype(str), return_counts=True)
    languages = [str(names[index]) for index in np.lexsort((names, -counts))]
    if len(languages) < 2:
        got = f"{', '.join(languages) or 'none'} in the column {column}"
        raise UserError(f"--strategy={run.strategy} needs several languages", got=got)
    order = split_names(run.language_order)
    if order and sorted(order) != sorted(languages):
        message = "--language_order does not name every language of the data once"
        raise UserError(message, got=run.language_order, expected=sorted(languages))
    return order or languages


def _make_language_task(data: Data, run: Run, heads_by: str, order: Sequence[str], index: int) -> LanguageTask:
    """Make the task of the language at an index of the order, with the rehearsal samples of earlier languages."""
    table, language, languages = data.table, order[index], get_sample_languages(data, heads_by)
    is_rehearsed = np.zeros(len(languages), bool)
    for earlier in order[:index]:
        candidates = np.flatnonzero((languages == earlier) & (table.split == "train"))
        count = round(run.rehearsal * len(candidates))
        is_rehearsed[np.random.default_rng([run.seed, index]).permutation(candidates)[:count]] = True
    split = np.where((languages == language) | is_rehearsed, table.split, "").astype(object)
    task_table = dataclasses.replace(table, split=split)
    weights, _ = compute_sampling_weights(task_table, data.tasks, run)
    sampler = dataclasses.replace(data.sampler, weights=weights)
    trained_languages = {language, *languages[is_rehearsed]}
    frozen_heads = tuple(
        head
        for head, task in data.tasks.items()
        if (task.heads_by and head not in trained_languages) or head == heads_by
    )
    folder_name = re.sub(r"[^\w-]+", "_", language)
    task_data = dataclasses.replace(data, table=task_table, sampler=sampler)
    return LanguageTask(f"{index + 1}_{folder_name}", language, heads_by, task_data, frozen_heads)


def get_sample_languages(data: Data, heads_by: str) -> np.ndarray:
    """Return the language of every sample (n,); empty strings if the data has no such column.

    Args:
        data: Samples of all splits.
        heads_by: Column that selects the head of a sample; empty for the column `language`.
    """
    return data.table.columns.get(heads_by or "language", np.full(len(data.table.split), "", object))
