"""What is wrong with a data set, as rows of a CSV file."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.data.duplicates import SimilarPairs, group_equal, group_pairs
from tfx_finetune.data.embeddings import FeatureSelectionScore, score_feature_selections
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.data.label_issues import (
    NUM_FOLDS,
    assign_folds,
    find_embedding_outliers,
    find_label_issues,
    predict_out_of_fold,
)
from tfx_finetune.datasets.class_names import iterate_classes
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.types.components import LABEL_SEPARATOR
from tfx_finetune.types.table import Table

FINDING_KINDS = {
    "unreadable": "mend the file or remove it",
    "unlabelled": "label it or leave it out",
    "leak": "leave it out of what is trained on",
    "conflict": "one content, two labels: correct one, or leave both out",
    "copy": "leave it out",
    "near copy": "keep both on one side of the split: give them one group",
    "wrong label": "look at it; perhaps it is the other class",
    "outlier": "look whether it belongs here",
    "blank": "leave it out if it shows nothing",
    "odd size": "look whether it belongs here",
    "rare class": "add samples, or join it with another class",
    "imbalance": "say --class_balanced_sampling or classify(class_weight='balanced')",
    "one class": "add another class: there is nothing to tell apart",
}
"""What can be found, in the order in which it is told, and what to do about it."""

# Held-out samples stay what they are as long as they can.
_SPLIT_RANK = {"test": 0, "val": 1, "train": 2, "all": 3}
_MIN_CLASS_SIZE = 10
_MAX_IMBALANCE = 10.0
_MIN_CONTRAST = 2.0
_MIN_LOG_DISTANCE = math.log(8)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: One of `KINDS`.
        row: The sample in the table; negative for what concerns a whole class.
        other: The sample that it is a copy of; negative for none.
        score: How sure, how alike, how far: what the kind counts in.
        said: The reason, the class, the label that is likelier.
    """

    kind: str
    row: int = -1
    other_row: int = -1
    score: float = math.nan
    detail: str = ""


@dataclass(frozen=True)
class EmbeddingFindings:
    """What a frozen tower's features tell.

    Attributes:
        findings: Labels that are probably wrong, the surest first.
        selections: How much of the features is needed.
        note: Why that is not known.
    """

    findings: tuple[Finding, ...]
    feature_selections: tuple[FeatureSelectionScore, ...]
    warning: str = ""


def find_table_issues(table: Table, label_column: str, requires_label: bool) -> Iterator[Finding]:
    """Samples that cannot be used, and classes that are hard to learn."""
    labels = table.columns[label_column]
    for row in np.flatnonzero(table.error != ""):
        yield Finding("unreadable", int(row), detail=str(table.error[row]))
    for row in np.flatnonzero((labels == "") & (table.error == "")):
        if requires_label:
            yield Finding("unlabelled", int(row))
    counts = count_classes(labels[table.error == ""])
    if len(counts) == 1:
        yield Finding("one class", detail=next(iter(counts)))
    for name, count in counts.items():
        if count < _MIN_CLASS_SIZE:
            yield Finding("rare class", score=count, detail=name)
    if len(counts) > 1 and max(counts.values()) > _MAX_IMBALANCE * min(counts.values()):
        most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        yield Finding("imbalance", score=counts[most] / counts[least], detail=f"{most}: {least}")


def find_duplicates(
    table: Table, label_column: str, rows: np.ndarray, statistics: SampleStatistics
) -> Iterator[Finding]:
    """Samples of one content: each points at the one of its copies that is kept.

    Args:
        table: All samples.
        column: Of the label.
        rows: Those that can be used, (n,): what `looks` has.
        looks: Of these.
    """
    for positions in group_duplicates(table.digest[rows], statistics):
        members = sorted((int(rows[at]) for at in positions), key=lambda row: (_get_split_rank(table, row), row))
        first, *others = members
        labels = table.columns[label_column]
        for row in others:
            kind = "copy" if table.split[row] == table.split[first] else "leak"
            yield Finding(kind, row, first, 1.0)
        for row in members:
            if other := next((other for other in members if labels[other] != labels[row]), None):
                yield Finding("conflict", row, other, 1.0, format_labels(labels[other]))


def find_near_duplicates(table: Table, rows: np.ndarray, pairs: SimilarPairs) -> Iterator[Finding]:
    """Samples of nearly one content: across splits a leak of what is trained on, else a near copy."""
    for i, j, score in pairs:
        kept, row = sorted((int(rows[i]), int(rows[j])), key=lambda row: (_get_split_rank(table, row), row))
        yield Finding("near copy" if table.split[row] == table.split[kept] else "leak", row, kept, score)


def find_blank_and_odd_sizes(rows: np.ndarray, statistics: SampleStatistics) -> Iterator[Finding]:
    """Pictures of one colour or of a size unlike all others', silence, recordings and texts far longer or shorter."""
    measures = statistics.measurements
    if "contrast" in measures:
        for at in np.flatnonzero(measures["contrast"] < _MIN_CONTRAST):
            yield Finding("blank", int(rows[at]), score=float(measures["contrast"][at]))
    if "decibels" in measures:
        for at in np.flatnonzero(measures["decibels"] < -75):
            yield Finding("blank", int(rows[at]), score=float(measures["decibels"][at]))
    sizes = {name: measures[name] for name in ("seconds", "characters") if name in measures}
    if "width" in measures:
        sizes = {
            "pixels": measures["width"] * measures["height"],
            "width / height": measures["width"] / measures["height"],
        }
    for name, values in sizes.items():
        for at in _find_far_values(np.log(np.maximum(values, 1e-3))):
            yield Finding("odd size", int(rows[at]), score=float(values[at]), detail=name)


def analyze_embeddings(
    table: Table, label_column: str, rows: np.ndarray, embeddings: np.ndarray, group: np.ndarray, seed: int
) -> EmbeddingFindings:
    """Labels that are probably wrong, and what tells the classes apart.

    Classes of less than five groups of samples are not judged: each fold wants one to learn from.

    Args:
        table: All samples.
        column: Of the label.
        rows: Those that can be used, (n,).
        points: What a frozen tower gives for each, (n, dim).
        group: Group of each sample of the table, empty for none: samples that are alike are never learned from and
            judged at once.
        seed: Of the folds.
    """
    labels = table.columns[label_column][rows]
    group = np.array([group[row] or f"sample {row}" for row in rows], object)
    single = np.array([bool(label) and LABEL_SEPARATOR not in label for label in labels])
    large = [name for name in sorted(set(labels[single])) if len(set(group[labels == name])) >= NUM_FOLDS]
    judged = np.flatnonzero(np.isin(labels, large))
    if not single[labels != ""].all():
        return EmbeddingFindings(
            (), (), "samples have several labels: which are wrong, and which features count, was not asked"
        )
    if len(large) < 2:
        return EmbeddingFindings((), (), f"fewer than two classes have {NUM_FOLDS} samples: labels were not judged")
    codes = np.searchsorted(large, labels[judged])
    fold = assign_folds(codes, group[judged].astype(str), seed)
    found, note = [], ""
    try:
        found = find_label_issues(codes, predict_out_of_fold(embeddings[judged], codes, fold))
    except UserError as error:
        # The rest is worth having without it.
        note = f"labels were not judged: {error}"
    wrong = (Finding("wrong label", int(rows[judged[d.row]]), -1, d.score, large[d.predicted_label]) for d in found)
    return EmbeddingFindings(tuple(wrong), tuple(score_feature_selections(embeddings[judged], codes, fold, seed)), note)


def find_outliers(rows: np.ndarray, embeddings: np.ndarray, statistics: SampleStatistics) -> Iterator[Finding]:
    """Samples unlike all others; see `noise.outliers`."""
    # Copies would be one another's nearest neighbours, at no distance.
    _, first = np.unique(statistics.content_hashes.astype(str), return_index=True)
    for at, factor in find_embedding_outliers(embeddings[first]):
        yield Finding("outlier", int(rows[first[at]]), score=factor)


def group_duplicates(digests: np.ndarray, statistics: SampleStatistics) -> list[list[int]]:
    """Positions of samples of one file or one decoded content."""
    pairs = [
        (found[0], other)
        for keys in (digests, statistics.content_hashes)
        for found in group_equal(keys)
        for other in found[1:]
    ]
    return group_equal([str(number) for number in group_pairs(len(digests), pairs)])


def count_classes(labels: np.ndarray) -> dict[str, int]:
    """Samples of each class, sorted by name."""
    return dict(sorted(Counter(iterate_classes(labels)).items()))


def write_findings(path: Path, table: Table, label_column: str, findings: Sequence[Finding]) -> None:
    """Writes a CSV file: a finding a row, with the sample, the other sample, the score and what to do."""
    head = ("finding", "file", "split", "label", "other", "other_split", "score", "said", "todo")
    labels = table.columns[label_column]
    with (
        files.write_atomically(path) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as out,
    ):
        writer = csv.writer(out)
        writer.writerow(head)
        for found in findings:
            mine = (table.file[found.row], table.split[found.row], format_labels(labels[found.row]))
            other = (table.file[found.other_row], table.split[found.other_row]) if found.other_row >= 0 else ("", "")
            score = "" if math.isnan(found.score) else f"{found.score:.4g}"
            own = mine if found.row >= 0 else ("", "", "")
            writer.writerow((found.kind, *own, *other, score, found.detail, FINDING_KINDS[found.kind]))


def _find_far_values(values: np.ndarray) -> np.ndarray:
    """Positions of values above or below the quartiles by three times their distance, and by a factor of 8."""
    low, high = np.quantile(values, (0.25, 0.75))
    reach = max(3 * (high - low), _MIN_LOG_DISTANCE)
    return np.flatnonzero((values < low - reach) | (values > high + reach))


def _get_split_rank(table: Table, row: int) -> int:
    return _SPLIT_RANK.get(str(table.split[row]), len(_SPLIT_RANK))


def format_labels(labels: Any) -> str:
    """Labels as a person reads them."""
    return convert_to_text(labels).replace(LABEL_SEPARATOR, ", ")
