"""Issues of a data set: kinds, search and CSV file; the kinds follow cleanlab's Datalab where it has them."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core import files
from tfx_finetune.data.duplicates import SimilarPairs
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.datasets.class_names import iterate_classes
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.datasets.splits import find_connected_groups
from tfx_finetune.types.components import LABEL_SEPARATOR
from tfx_finetune.types.table import Table

ISSUE_HINTS = {
    "unreadable": "Repair the file or remove it.",
    "unlabeled": "Add a label or remove the sample.",
    "leakage": "Remove the sample from training.",
    "label_conflict": "Correct one of the labels or remove both samples.",
    "duplicate": "Remove the sample.",
    "near_duplicate": "Give both samples the same group, so that they stay in one split.",
    "label_error": "Check the label; the detail is the predicted class.",
    "outlier": "Check whether the sample belongs to the data set.",
    "blank": "Remove the sample if it has no content.",
    "odd_size": "Check whether the sample belongs to the data set.",
    "rare_class": "Add samples or merge the class with another class.",
    "imbalance": "Use --class_balanced_sampling or classify(class_weight='balanced').",
    "single_class": "Add samples of another class.",
}
"""Advice for each kind of issue, in the order of the page."""

# Of two copies in different splits, the one in training is dropped: held-out splits change as little as possible.
_SPLIT_RANK = {"test": 0, "val": 1, "train": 2, "all": 3}
_MIN_CLASS_SIZE = 10
_MAX_IMBALANCE = 10.0
_MIN_CONTRAST = 2.0
_MIN_LEVEL_DB = -75
_MIN_LOG_DISTANCE = math.log(8)


@dataclass(frozen=True)
class DataIssue:
    """Issue of a sample, a pair of samples or a class.

    Attributes:
        kind: Kind of the issue, a key of `ISSUE_HINTS`.
        row: int. Row of the sample in the table; negative for an issue of a class.
        other_row: int. Row of the other sample of a pair; negative for none.
        score: float. Similarity, probability of the label, outlier factor, size or count, depending on the kind.
        detail: Error message, class name or measurement, depending on the kind.
    """

    kind: str
    row: int = -1
    other_row: int = -1
    score: float = math.nan
    detail: str = ""


def find_table_issues(table: Table, label_column: str, requires_label: bool) -> Iterator[DataIssue]:
    """Yield unreadable and unlabeled samples, rare classes, class imbalance and a single class.

    Args:
        table: Table of all samples.
        label_column: Name of the label column.
        requires_label: bool. True if a sample without a label is an issue; False for tagging.
    """
    labels = table.columns[label_column]
    for row in np.flatnonzero(table.error != ""):
        yield DataIssue("unreadable", int(row), detail=str(table.error[row]))
    for row in np.flatnonzero((labels == "") & (table.error == "")):
        if requires_label:
            yield DataIssue("unlabeled", int(row))
    counts = count_classes(labels[table.error == ""])
    if len(counts) == 1:
        yield DataIssue("single_class", detail=next(iter(counts)))
    for name, count in counts.items():
        if count < _MIN_CLASS_SIZE:
            yield DataIssue("rare_class", score=count, detail=name)
    if len(counts) > 1 and max(counts.values()) > _MAX_IMBALANCE * min(counts.values()):
        largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        yield DataIssue("imbalance", score=counts[largest] / counts[smallest], detail=f"{largest}: {smallest}")


def find_duplicates(
    table: Table, label_column: str, rows: np.ndarray, statistics: SampleStatistics
) -> Iterator[DataIssue]:
    """Yield exact duplicates within a split, leakage between splits, and duplicates with different labels.

    The other sample of an issue is the duplicate to keep, in a label conflict the sample with the other label.

    Args:
        table: Table of all samples.
        label_column: Name of the label column.
        rows: int array (n,). Rows of the readable samples.
        statistics: Statistics of the readable samples.
    """
    labels = table.columns[label_column]
    for indices in group_duplicates(table.digest[rows], statistics):
        group = sorted((int(rows[index]) for index in indices), key=lambda row: (_get_split_rank(table, row), row))
        kept_row, *duplicate_rows = group
        for row in duplicate_rows:
            kind = "duplicate" if table.split[row] == table.split[kept_row] else "leakage"
            yield DataIssue(kind, row, kept_row, 1.0)
        for row in group:
            other_rows = [other_row for other_row in group if labels[other_row] != labels[row]]
            if other_rows:
                yield DataIssue("label_conflict", row, other_rows[0], 1.0, format_labels(labels[other_rows[0]]))


def find_near_duplicates(table: Table, rows: np.ndarray, pairs: SimilarPairs) -> Iterator[DataIssue]:
    """Yield near-duplicates within a split and leakage by near-duplicates in different splits.

    Args:
        table: Table of all samples.
        rows: int array (n,). Rows of the readable samples.
        pairs: Pairs of similar samples, as indices into `rows`.
    """
    for i, j, similarity in pairs:
        kept_row, row = sorted((int(rows[i]), int(rows[j])), key=lambda row: (_get_split_rank(table, row), row))
        kind = "near_duplicate" if table.split[row] == table.split[kept_row] else "leakage"
        yield DataIssue(kind, row, kept_row, similarity)


def find_blank_and_odd_sizes(rows: np.ndarray, statistics: SampleStatistics) -> Iterator[DataIssue]:
    """Yield images of one color, silent audio, and samples whose size, aspect ratio or length is an outlier.

    Args:
        rows: int array (n,). Rows of the readable samples.
        statistics: Statistics of the readable samples.
    """
    measurements = statistics.measurements
    for name, threshold in (("contrast", _MIN_CONTRAST), ("decibels", _MIN_LEVEL_DB)):
        if name in measurements:
            for index in np.flatnonzero(measurements[name] < threshold):
                yield DataIssue("blank", int(rows[index]), score=float(measurements[name][index]))
    sizes = {name: measurements[name] for name in ("seconds", "characters") if name in measurements}
    if "width" in measurements:
        sizes = {
            "pixels": measurements["width"] * measurements["height"],
            "width / height": measurements["width"] / measurements["height"],
        }
    for name, values in sizes.items():
        for index in _find_far_values(np.log(np.maximum(values, 1e-3))):
            yield DataIssue("odd_size", int(rows[index]), score=float(values[index]), detail=name)


def group_duplicates(digests: np.ndarray, statistics: SampleStatistics) -> list[list[int]]:
    """Return the indices of samples with equal files or equal decoded content, one list per group of duplicates.

    Args:
        digests: object array (n,). Hash of each file.
        statistics: Statistics of the same samples.
    """
    components = find_connected_groups(digests, statistics.content_hashes)
    return [indices for indices in components if len(indices) > 1]


def count_classes(labels: np.ndarray) -> dict[str, int]:
    r"""Return the number of samples of each class, sorted by class name.

    Args:
        labels: object array (n,). Class names of each sample, separated by `LABEL_SEPARATOR`.

    Examples:
        >>> count_classes(np.array(["b\na", "a", ""], object))
        {'a': 2, 'b': 1}
    """
    return dict(sorted(Counter(iterate_classes(labels)).items()))


def write_issues(path: Path, table: Table, label_column: str, issues: Sequence[DataIssue]) -> None:
    """Write issues as a CSV file, one row per issue.

    The columns are kind, file, split, label, other_file, other_split, score, detail and hint.

    Args:
        path: Path of the CSV file.
        table: Table of all samples.
        label_column: Name of the label column.
        issues: Issues to write.
    """
    header = ("kind", "file", "split", "label", "other_file", "other_split", "score", "detail", "hint")
    labels = table.columns[label_column]
    with (
        files.write_atomically(path) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(header)
        for issue in issues:
            row, other_row = issue.row, issue.other_row
            sample = (table.file[row], table.split[row], format_labels(labels[row])) if row >= 0 else ("", "", "")
            other_sample = (table.file[other_row], table.split[other_row]) if other_row >= 0 else ("", "")
            score = "" if math.isnan(issue.score) else f"{issue.score:.4g}"
            writer.writerow((issue.kind, *sample, *other_sample, score, issue.detail, ISSUE_HINTS[issue.kind]))


def format_labels(labels: Any) -> str:
    r"""Return the labels of a sample as human-readable text.

    Args:
        labels: Class names, separated by `LABEL_SEPARATOR`.

    Examples:
        >>> format_labels("cat\ndog")
        'cat, dog'
    """
    return convert_to_text(labels).replace(LABEL_SEPARATOR, ", ")


def _find_far_values(values: np.ndarray) -> np.ndarray:
    """Return the indices of values more than 3 interquartile ranges, and log(8), outside the quartiles."""
    low, high = np.quantile(values, (0.25, 0.75))
    max_distance = max(3 * (high - low), _MIN_LOG_DISTANCE)
    return np.flatnonzero((values < low - max_distance) | (values > high + max_distance))


def _get_split_rank(table: Table, row: int) -> int:
    """Return the priority of a sample's split when one of two copies is kept; lower is kept."""
    return _SPLIT_RANK.get(str(table.split[row]), len(_SPLIT_RANK))
