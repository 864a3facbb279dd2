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
from tfx_finetune.data.duplicates import Pairs, groups, same
from tfx_finetune.data.embeddings import Selection, selections
from tfx_finetune.data.fingerprints import Looks
from tfx_finetune.data.label_issues import FOLDS, doubts, folds, out_of_fold, outliers
from tfx_finetune.datasets.class_names import classes
from tfx_finetune.datasets.sources.in_memory import as_text
from tfx_finetune.types.components import LABEL_SEPARATOR
from tfx_finetune.types.table import Table

KINDS = {
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
    "imbalance": "say --samples.balance or classify(class_weight='balanced')",
    "one class": "add another class: there is nothing to tell apart",
}
"""What can be found, in the order in which it is told, and what to do about it."""

# Held-out samples stay what they are as long as they can.
_RANK = {"test": 0, "val": 1, "train": 2, "all": 3}
_RARE = 10
_IMBALANCE = 10.0
_BLANK = 2.0
_FAR = math.log(8)


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
    other: int = -1
    score: float = math.nan
    said: str = ""


@dataclass(frozen=True)
class Frozen:
    """What a frozen tower's features tell.

    Attributes:
        findings: Labels that are probably wrong, the surest first.
        selections: How much of the features is needed.
        note: Why that is not known.
    """

    findings: tuple[Finding, ...]
    selections: tuple[Selection, ...]
    note: str = ""


def of_table(table: Table, column: str, wants_label: bool) -> Iterator[Finding]:
    """Samples that cannot be used, and classes that are hard to learn."""
    labels = table.columns[column]
    for row in np.flatnonzero(table.reason != ""):
        yield Finding("unreadable", int(row), said=str(table.reason[row]))
    for row in np.flatnonzero((labels == "") & (table.reason == "")):
        if wants_label:
            yield Finding("unlabelled", int(row))
    counts = class_counts(labels[table.reason == ""])
    if len(counts) == 1:
        yield Finding("one class", said=next(iter(counts)))
    for name, count in counts.items():
        if count < _RARE:
            yield Finding("rare class", score=count, said=name)
    if len(counts) > 1 and max(counts.values()) > _IMBALANCE * min(counts.values()):
        most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        yield Finding("imbalance", score=counts[most] / counts[least], said=f"{most}: {least}")


def of_copies(table: Table, column: str, rows: np.ndarray, looks: Looks) -> Iterator[Finding]:
    """Samples of one content: each points at the one of its copies that is kept.

    Args:
        table: All samples.
        column: Of the label.
        rows: Those that can be used, (n,): what `looks` has.
        looks: Of these.
    """
    for positions in copies(table.digest[rows], looks):
        members = sorted((int(rows[at]) for at in positions), key=lambda row: (_rank(table, row), row))
        first, *others = members
        labels = table.columns[column]
        for row in others:
            kind = "copy" if table.split[row] == table.split[first] else "leak"
            yield Finding(kind, row, first, 1.0)
        for row in members:
            if other := next((other for other in members if labels[other] != labels[row]), None):
                yield Finding("conflict", row, other, 1.0, shown(labels[other]))


def of_near(table: Table, rows: np.ndarray, pairs: Pairs) -> Iterator[Finding]:
    """Samples of nearly one content: across splits a leak of what is trained on, else a near copy."""
    for i, j, score in pairs:
        kept, row = sorted((int(rows[i]), int(rows[j])), key=lambda row: (_rank(table, row), row))
        yield Finding("near copy" if table.split[row] == table.split[kept] else "leak", row, kept, score)


def of_looks(rows: np.ndarray, looks: Looks) -> Iterator[Finding]:
    """Pictures of one colour or of a size unlike all others', silence, recordings and texts far longer or shorter."""
    measures = looks.measures
    if "contrast" in measures:
        for at in np.flatnonzero(measures["contrast"] < _BLANK):
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
        for at in _far(np.log(np.maximum(values, 1e-3))):
            yield Finding("odd size", int(rows[at]), score=float(values[at]), said=name)


def of_frozen(table: Table, column: str, rows: np.ndarray, points: np.ndarray, group: np.ndarray, seed: int) -> Frozen:
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
    labels = table.columns[column][rows]
    group = np.array([group[row] or f"sample {row}" for row in rows], object)
    single = np.array([bool(label) and LABEL_SEPARATOR not in label for label in labels])
    large = [name for name in sorted(set(labels[single])) if len(set(group[labels == name])) >= FOLDS]
    judged = np.flatnonzero(np.isin(labels, large))
    if not single[labels != ""].all():
        return Frozen((), (), "samples have several labels: which are wrong, and which features count, was not asked")
    if len(large) < 2:
        return Frozen((), (), f"fewer than two classes have {FOLDS} samples: labels were not judged")
    codes = np.searchsorted(large, labels[judged])
    fold = folds(codes, group[judged].astype(str), seed)
    found, note = [], ""
    try:
        found = doubts(codes, out_of_fold(points[judged], codes, fold))
    except UserError as error:
        # The rest is worth having without it.
        note = f"labels were not judged: {error}"
    wrong = (Finding("wrong label", int(rows[judged[d.row]]), -1, d.score, large[d.better]) for d in found)
    return Frozen(tuple(wrong), tuple(selections(points[judged], codes, fold, seed)), note)


def of_outliers(rows: np.ndarray, points: np.ndarray, looks: Looks) -> Iterator[Finding]:
    """Samples unlike all others; see `noise.outliers`."""
    # Copies would be one another's nearest neighbours, at no distance.
    _, first = np.unique(looks.prints.astype(str), return_index=True)
    for at, factor in outliers(points[first]):
        yield Finding("outlier", int(rows[first[at]]), score=factor)


def copies(digests: np.ndarray, looks: Looks) -> list[list[int]]:
    """Positions of samples of one file or one decoded content."""
    pairs = [(found[0], other) for keys in (digests, looks.prints) for found in same(keys) for other in found[1:]]
    return same([str(number) for number in groups(len(digests), pairs)])


def class_counts(labels: np.ndarray) -> dict[str, int]:
    """Samples of each class, sorted by name."""
    return dict(sorted(Counter(classes(labels)).items()))


def write_findings(path: Path, table: Table, column: str, findings: Sequence[Finding]) -> None:
    """Writes a CSV file: a finding a row, with the sample, the other sample, the score and what to do."""
    head = ("finding", "file", "split", "label", "other", "other_split", "score", "said", "todo")
    labels = table.columns[column]
    with files.atomic(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as out:
        writer = csv.writer(out)
        writer.writerow(head)
        for found in findings:
            mine = (table.file[found.row], table.split[found.row], shown(labels[found.row]))
            other = (table.file[found.other], table.split[found.other]) if found.other >= 0 else ("", "")
            score = "" if math.isnan(found.score) else f"{found.score:.4g}"
            own = mine if found.row >= 0 else ("", "", "")
            writer.writerow((found.kind, *own, *other, score, found.said, KINDS[found.kind]))


def _far(values: np.ndarray) -> np.ndarray:
    """Positions of values above or below the quartiles by three times their distance, and by a factor of 8."""
    low, high = np.quantile(values, (0.25, 0.75))
    reach = max(3 * (high - low), _FAR)
    return np.flatnonzero((values < low - reach) | (values > high + reach))


def _rank(table: Table, row: int) -> int:
    return _RANK.get(str(table.split[row]), len(_RANK))


def shown(labels: Any) -> str:
    """Labels as a person reads them."""
    return as_text(labels).replace(LABEL_SEPARATOR, ", ")
