"""How the languages and sources of the held-out samples fare, and what a text tower makes of each language."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.tasks.text_embeddings import RETRIEVAL_METRICS
from tfx_finetune.types.components import Task
from tfx_finetune.types.table import SLICE_COLUMNS, Table

_MAX_TEXTS = 200  # texts of a language of which tokens are counted
# Scripts that are written without blanks: Thai and Lao, Myanmar, Khmer, kana, Chinese characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SECONDARY_METRICS = {"precision": "precision_macro", "recall": "recall_macro", "F1": "f1_macro"}
"""Scores that stand beside the one that a head is judged by, and their names in `scores.json`."""


@dataclass(frozen=True)
class SliceResult:
    """How well the heads do on the samples of one language or source.

    Attributes:
        name: Of the language or source.
        samples: Held-out ones of it.
        scores: By head, each by the score it is judged by; of a single head others too.
        tokens: A word, of a language that a text tower reads.
    """

    name: str
    samples: int
    scores: Mapping[str, float]
    tokenizer_fertility: float | None = None


@dataclass(frozen=True)
class WorstGroup:
    """By how much a head is worse on one language, or source, than on another: values of `column`, and their scores."""

    column: str
    head: str
    metric: str
    worst_group: str
    worst_score: float
    best_group: str
    best_score: float

    def __str__(self) -> str:
        told = f"{self.worst_group} {self.worst_score:.3f}, {self.best_score - self.worst_score:.3f} below {self.best_group}"
        return f"worst {self.column} by {self.metric.replace('_', ' ')} of {self.head}: {told}"


def count_words(text: str) -> int:
    """Words of a text as blanks part them; of scripts that are written without, its characters."""
    return len(_WORD.findall(text))


def measure_tokenizer_fertility(data: Data) -> dict[str, float]:
    """Tokens a word of each language, of up to 200 of its texts, as the first text tower takes them, cut at its size.

    A tower has fewer of them in languages that it was pretrained on than in others.
    """
    tower = next((name for name, modality in data.modalities.items() if modality.column == "text"), "")
    languages = data.table.columns.get("language")
    if not tower or languages is None:
        return {}
    there = (data.table.split != "") & (data.table.digests[tower] != "")
    member = np.zeros(len(there), bool)
    for language in set(languages[there]) - {""}:
        member[np.flatnonzero(there & (languages == language))[:_MAX_TEXTS]] = True
    if not member.any():
        return {}
    # What other towers take need not be read.
    own = dataclasses.replace(
        data, modalities={tower: data.modalities[tower]}, tower_columns={tower: data.tower_columns[tower]}
    )
    read = (own.prepared_inputs(member)[tower] != 0).sum(axis=1)
    said = np.array([count_words(raw[tower].decode("utf-8", "replace")) for raw in own.read_raw_contents(member)])
    each = {language: languages[member] == language for language in sorted(set(languages[member]))}
    return {language: float(read[mine].sum() / max(said[mine].sum(), 1)) for language, mine in each.items()}


def collect_slice_results(
    data: Data, scores: Mapping[str, Any], fertility_by_language: Mapping[str, float]
) -> tuple[SliceResult, ...]:
    """What the heads score on the samples of each language and source: those that answer all, and its own.

    Args:
        data: The samples.
        scores: Every score of the trained model.
        known: Tokens a word, by language.
    """
    languages = data.table.columns.get("language", np.array([]))
    return tuple(
        SliceResult(
            value,
            int(marked.sum()),
            _select_slice_scores(data.tasks, scores, value),
            fertility_by_language.get(value) if value in languages else None,
        )
        for value, marked in make_slice_masks(data.table, "test").items()
    )


def _select_slice_scores(tasks: Mapping[str, Task], scores: Mapping[str, Any], slice_value: str) -> dict[str, float]:
    found = {}
    for head, task in tasks.items():
        if task.heads_by:
            found[f"own {task.monitor}"] = scores.get(f"{slice_value}/{task.monitor}")
            continue
        found[head] = scores.get(f"{head}/{task.monitor}[{slice_value}]")
        if len(tasks) == 1:
            found |= {said: scores.get(f"{head}/{name}[{slice_value}]") for said, name in _SECONDARY_METRICS.items()}
    return {name: score for name, score in found.items() if score is not None}


def collect_retrieval_results(
    tasks: Mapping[str, Task], scores: Mapping[str, Any], samples: int
) -> tuple[SliceResult, ...]:
    """How often names of each language were found, by heads that name things."""
    found = []
    for head, task in tasks.items():
        for language in task.labels.translations if task.zero_shot else ():
            own = {score: scores.get(f"{head}/{score}[{language}]") for score in RETRIEVAL_METRICS}
            found.append(
                SliceResult(language, samples, {name: score for name, score in own.items() if score is not None})
            )
    return tuple(found)


def find_worst_groups(table: Table, tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> tuple[WorstGroup, ...]:
    """Between the worst and the best language, and source, of each head that answers several."""
    found = []
    for column in SLICE_COLUMNS:
        lanes = table.columns.get(column, np.full(len(table.split), ""))[table.split == "test"]
        for head, task in tasks.items():
            each = {value: scores.get(f"{head}/{task.monitor}[{value}]") for value in sorted(set(lanes) - {""})}
            known = {value: score for value, score in each.items() if score is not None}
            if not task.heads_by and len(set(known.values())) > 1:
                worst, best = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
                found.append(WorstGroup(column, head, task.monitor, worst, known[worst], best, known[best]))
    return tuple(found)


def make_slice_masks(table: Table, split: str) -> dict[str, np.ndarray]:
    """Marks a split's samples of each language and source, where there are several of them, (n,)."""
    found: dict[str, np.ndarray] = {}
    for column in SLICE_COLUMNS:
        lanes = table.columns.get(column, np.full(len(table.split), ""))[table.split == split]
        names = sorted(set(lanes) - {""})
        if len(names) > 1:
            found |= {name: lanes == name for name in names}
    return found
