"""Scores of the languages and sources of the test split, and the tokenizer fertility of each language."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.tasks.text_embeddings import RETRIEVAL_METRICS
from tfx_finetune.types.table import SLICE_COLUMNS, Table
from tfx_finetune.types.task import Task

_MAX_TEXTS_PER_LANGUAGE = 200
# Scripts that are written without spaces: Thai and Lao, Myanmar, Khmer, kana, Chinese characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SECONDARY_METRICS = {"precision": "precision_macro", "recall": "recall_macro", "F1": "f1_macro"}
"""Scores that are reported in addition to the monitored score, by column title; the values are names in scores.json."""


@dataclass(frozen=True)
class SliceResult:
    """Scores of the heads on the test samples of one language or source.

    Attributes:
        name: Name of the language or source.
        samples: Number of test samples.
        scores: Monitored score by head. With a single head, precision, recall and F1 too.
        tokenizer_fertility: Mean number of tokens per word (arXiv 2012.15613), or None without a text tower.
    """

    name: str
    samples: int
    scores: Mapping[str, float]
    tokenizer_fertility: float | None = None


@dataclass(frozen=True)
class WorstGroup:
    """Gap between the best and the worst language or source of one head (worst-group accuracy, arXiv 1911.08731).

    Attributes:
        column: Column of the groups, `language` or `source`.
        head: Name of the head.
        metric: Name of the monitored score.
        worst_group: Value of the column with the lowest score.
        worst_score: The lowest score.
        best_group: Value of the column with the highest score.
        best_score: The highest score.

    Examples:
        >>> print(WorstGroup("language", "label", "accuracy", "fi", 0.5, "en", 0.9))
        worst language by accuracy of label: fi 0.500, 0.400 below en
    """

    column: str
    head: str
    metric: str
    worst_group: str
    worst_score: float
    best_group: str
    best_score: float

    def __str__(self) -> str:
        gap = f"{self.best_score - self.worst_score:.3f} below {self.best_group}"
        metric = self.metric.replace("_", " ")
        return f"worst {self.column} by {metric} of {self.head}: {self.worst_group} {self.worst_score:.3f}, {gap}"


def count_words(text: str) -> int:
    """Count the words of a text; each character is a word in scripts that are written without spaces.

    Examples:
        >>> count_words("two words"), count_words("三花猫")
        (2, 3)
    """
    return len(_WORD.findall(text))


def measure_tokenizer_fertility(data: Data) -> dict[str, float]:
    """Measure the mean number of tokens per word of each language (fertility, arXiv 2012.15613).

    Fertility is lower in languages on which the text tower was pretrained. The tokens are those of the first text
    tower, truncated at its sequence length.

    Args:
        data: The samples, of which up to 200 texts per language are read.

    Returns:
        Fertility by language. Empty without a text tower or a column `language`.
    """
    tower = next((name for name, modality in data.modalities.items() if modality.column == "text"), "")
    languages = data.table.columns.get("language")
    if not tower or languages is None:
        return {}
    has_text = (data.table.split != "") & (data.table.digests[tower] != "")
    mask = np.zeros(len(has_text), bool)
    for language in set(languages[has_text]) - {""}:
        mask[np.flatnonzero(has_text & (languages == language))[:_MAX_TEXTS_PER_LANGUAGE]] = True
    if not mask.any():
        return {}
    # Without the other towers, their files are not read.
    text_data = dataclasses.replace(
        data, modalities={tower: data.modalities[tower]}, tower_columns={tower: data.tower_columns[tower]}
    )
    token_counts = (text_data.prepared_inputs(mask)[tower] != 0).sum(axis=1)
    texts = [raw[tower].decode("utf-8", "replace") for raw in text_data.read_raw_contents(mask)]
    word_counts = np.array([count_words(text) for text in texts])
    fertility = {}
    for language in sorted(set(languages[mask])):
        rows = languages[mask] == language
        fertility[language] = float(token_counts[rows].sum() / max(word_counts[rows].sum(), 1))
    return fertility


def collect_slice_results(
    data: Data, scores: Mapping[str, Any], fertility_by_language: Mapping[str, float]
) -> tuple[SliceResult, ...]:
    """Collect the scores of each language and source of the test split.

    Args:
        data: The samples.
        scores: All scores of the trained model, from `evaluate`.
        fertility_by_language: Tokenizer fertility by language.
    """
    languages = data.table.columns.get("language", np.array([]))
    return tuple(
        SliceResult(
            value,
            int(mask.sum()),
            _select_slice_scores(data.tasks, scores, value),
            fertility_by_language.get(value) if value in languages else None,
        )
        for value, mask in make_slice_masks(data.table, "test").items()
    )


def _select_slice_scores(tasks: Mapping[str, Task], scores: Mapping[str, Any], slice_value: str) -> dict[str, float]:
    """Return the scores of one slice by column title: of the heads of all samples, and of the head of this slice."""
    columns = {}
    for head, task in tasks.items():
        if task.heads_by:
            columns[f"language head {task.monitor}"] = scores.get(f"{slice_value}/{task.monitor}")
            continue
        columns[head] = scores.get(f"{head}/{task.monitor}[{slice_value}]")
        if len(tasks) == 1:
            for title, name in _SECONDARY_METRICS.items():
                columns[title] = scores.get(f"{head}/{name}[{slice_value}]")
    return _without_none(columns)


def collect_retrieval_results(
    tasks: Mapping[str, Task], scores: Mapping[str, Any], samples: int
) -> tuple[SliceResult, ...]:
    """Collect the retrieval scores of the class names of each language, for zero-shot heads.

    Args:
        tasks: Heads by name.
        scores: All scores of the trained model, from `evaluate`.
        samples: Number of test samples.
    """
    results = []
    for head, task in tasks.items():
        for language in task.labels.translations if task.zero_shot else ():
            columns = {metric: scores.get(f"{head}/{metric}[{language}]") for metric in RETRIEVAL_METRICS}
            results.append(SliceResult(language, samples, _without_none(columns)))
    return tuple(results)


def _without_none(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if score is not None}


def find_worst_groups(table: Table, tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> tuple[WorstGroup, ...]:
    """Find the worst and the best language and source of each head that answers all samples.

    Heads without two different scores are omitted.

    Args:
        table: Table of the samples.
        tasks: Heads by name.
        scores: All scores of the trained model, from `evaluate`.
    """
    worst_groups = []
    for column in SLICE_COLUMNS:
        groups = sorted(set(_get_column(table, column, "test")) - {""})
        for head, task in tasks.items():
            by_group = _without_none({group: scores.get(f"{head}/{task.monitor}[{group}]") for group in groups})
            if not task.heads_by and len(set(by_group.values())) > 1:
                worst, best = (
                    min(by_group, key=lambda name: by_group[name]),
                    max(by_group, key=lambda name: by_group[name]),
                )
                worst_groups.append(
                    WorstGroup(column, head, task.monitor, worst, by_group[worst], best, by_group[best])
                )
    return tuple(worst_groups)


def make_slice_masks(table: Table, split: str) -> dict[str, np.ndarray]:
    """Return boolean masks of the samples of each language and source.

    Args:
        table: Table of the samples.
        split: Name of the split.

    Returns:
        Masks (n,) over the samples of the split, by language or source. Columns with a single value are omitted.
    """
    masks: dict[str, np.ndarray] = {}
    for column in SLICE_COLUMNS:
        values = _get_column(table, column, split)
        names = sorted(set(values) - {""})
        if len(names) > 1:
            masks |= {name: values == name for name in names}
    return masks


def _get_column(table: Table, column: str, split: str) -> np.ndarray:
    """Return the values of a column (n,) for the samples of a split; empty strings if the table lacks the column."""
    return table.columns.get(column, np.full(len(table.split), ""))[table.split == split]
