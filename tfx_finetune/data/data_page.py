"""The page data.html: what a data set is and what is wrong with it, with its pictures, in the look of report.html."""

import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfx_finetune.data.dataset import Subject
from tfx_finetune.data.embeddings import Selection
from tfx_finetune.data.findings import KINDS, Finding, Frozen, class_counts, shown
from tfx_finetune.data.fingerprints import RATE, Looks, no_size
from tfx_finetune.datasets.modalities.build import modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import Order
from tfx_finetune.report.html import write_page
from tfx_finetune.types.components import Card, Exhibit

MOST_SHOWN = 12
_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_SHOWN_SIDE, _SHOWN_SECONDS = 160, 5


@dataclass(frozen=True)
class Shown:
    """A finding as a person sees it: what there is to see and hear of the sample, and of the other one."""

    finding: Finding
    file: str
    split: str
    label: str
    exhibit: Exhibit
    other: str = ""
    other_split: str = ""
    other_exhibit: Exhibit | None = None


@dataclass(frozen=True)
class Chapter:
    """All findings of a kind: how many, what to do, and the first of them."""

    kind: str
    count: int
    todo: str
    first: tuple[Shown, ...]


@dataclass(frozen=True)
class DataPage:
    """All that the page shows.

    Attributes:
        title: Name of the data.
        command: The command line.
        created: When, as text.
        noun: What a sample is, in the plural.
        readable: Samples that can be used.
        splits: Samples of each part.
        counts: Of label, source and language: samples of each value in each part.
        measures: `(name, values at the quantiles)`.
        channels: `(channel, mean, standard deviation)` of pixels, 0 to 255.
        selections: What feature selection does to the score.
        chapters: What was found.
        notes: What a person should know.
    """

    title: str
    command: str
    created: str
    noun: str
    readable: int
    splits: Mapping[str, int]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    measures: tuple[tuple[str, tuple[float, ...]], ...]
    channels: tuple[tuple[str, float, float], ...]
    selections: tuple[Selection, ...]
    chapters: tuple[Chapter, ...]
    notes: tuple[str, ...]


def write_data_page(path: Path, data: Subject, looks: Looks, findings: Sequence[Finding], judged: Frozen) -> None:
    """Writes data.html.

    Args:
        path: The file.
        data: The data.
        looks: Of the samples that can be read.
        findings: What is wrong with them.
        judged: What a frozen tower's features tell.
    """
    table = data.table
    columns = [data.label, *(name for name in table.columns if name not in (data.label, "group"))]
    page = DataPage(
        title=data.source.name,
        command=" ".join(["python -m tfx_finetune.data", *sys.argv[1:]]),
        created=datetime.datetime.now().isoformat(" ", timespec="minutes"),
        noun=data.modality.noun,
        readable=len(data.rows),
        splits={part: table.size(part) for part in data.source.sizes},
        counts={name: counts for name in columns if (counts := _counts(data, name))},
        measures=tuple((name, tuple(np.quantile(values, _QUANTILES))) for name, values in looks.measures.items()),
        channels=standard(looks),
        selections=judged.selections,
        chapters=_chapters(data, findings),
        notes=(*table.notes, *filter(None, [judged.note])),
    )
    write_page(path, "data.html.j2", page=page)


def standard(looks: Looks) -> tuple[tuple[str, float, float], ...]:
    """Mean and standard deviation of each channel over all pictures, each counting alike, 0 to 255."""
    if not looks.channels:
        return ()
    mean, square = (values.astype(np.float64).mean(0) for values in looks.channels)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(
        (name, float(m), float(d)) for name, m, d in zip(("red", "green", "blue"), mean, deviation, strict=True)
    )


def _counts(data: Subject, column: str) -> dict[str, dict[str, int]]:
    """Samples of each value of a column in each part."""
    values = data.table.columns[column]
    parts = {part: class_counts(values[data.table.split == part]) for part in data.source.sizes}
    names = sorted({name for counts in parts.values() for name in counts})
    return {name: {part: counts.get(name, 0) for part, counts in parts.items()} for name in names}


def _chapters(data: Subject, findings: Sequence[Finding]) -> tuple[Chapter, ...]:
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    first = [finding for found in by_kind.values() for finding in found[:MOST_SHOWN]]
    exhibits = _exhibits(data, {row for finding in first for row in (finding.row, finding.other) if row >= 0})
    return tuple(
        Chapter(kind, len(found), todo, tuple(_shown(data, finding, exhibits) for finding in found[:MOST_SHOWN]))
        for kind, todo in KINDS.items()
        if (found := by_kind.get(kind, []))
    )


def _shown(data: Subject, finding: Finding, exhibits: Mapping[int, Exhibit]) -> Shown:
    table = data.table
    if finding.row < 0:
        return Shown(finding, "", "", "", Exhibit())
    own = str(table.file[finding.row]), str(table.split[finding.row]), shown(table.columns[data.label][finding.row])
    exhibit = exhibits.get(finding.row, Exhibit())
    if finding.other < 0:
        return Shown(finding, *own, exhibit)
    other = str(table.file[finding.other]), str(table.split[finding.other])
    return Shown(finding, *own, exhibit, *other, exhibits.get(finding.other))


def _exhibits(data: Subject, rows: set[int]) -> dict[int, Exhibit]:
    """What there is to see and hear of these samples, as far as they can be read."""
    member = np.zeros(len(data.table.file), bool)
    member[list(rows)] = True
    member &= data.table.reason == ""
    if not member.any():
        return {}
    ((tower, kind),) = data.plan.modalities.items()
    card = {"image": Card(size=_SHOWN_SIDE), "audio": Card(size=_SHOWN_SECONDS * RATE, rate=RATE)}.get(kind, Card(1))
    small = modality(data.plan.run, kind, card, **no_size(kind))
    samples = Data(data.source, data.table, {tower: small}, {tower: data.column}, {}, (), 32, Order(0))
    each = zip(np.flatnonzero(member).tolist(), samples.raw(member), samples.prepared(member)[tower], strict=True)
    return {row: small.show(raw[tower], np.asarray(prepared)) for row, raw, prepared in each}
