"""The page data.html: what a data set is and what is wrong with it, with its pictures, in the look of report.html."""

import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfx_finetune.data.dataset import AuditedDataset
from tfx_finetune.data.embeddings import FeatureSelectionScore
from tfx_finetune.data.findings import FINDING_KINDS, EmbeddingFindings, Finding, count_classes, format_labels
from tfx_finetune.data.fingerprints import SAMPLE_RATE, SampleStatistics
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.report.html import write_page
from tfx_finetune.types.components import PretrainedCfg, SamplePreview

MAX_EXAMPLES = 12
_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_PREVIEW_SIDE, _PREVIEW_SECONDS = 160, 5


@dataclass(frozen=True)
class FindingExample:
    """A finding as a person sees it: what there is to see and hear of the sample, and of the other one."""

    finding: Finding
    file: str
    split: str
    label: str
    preview: SamplePreview
    other_file: str = ""
    other_split: str = ""
    other_preview: SamplePreview | None = None


@dataclass(frozen=True)
class FindingSection:
    """All findings of a kind: how many, what to do, and the first of them."""

    kind: str
    count: int
    hint: str
    examples: tuple[FindingExample, ...]


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
    unit: str
    num_readable: int
    splits: Mapping[str, int]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    measurement_quantiles: tuple[tuple[str, tuple[float, ...]], ...]
    channel_statistics: tuple[tuple[str, float, float], ...]
    feature_selections: tuple[FeatureSelectionScore, ...]
    sections: tuple[FindingSection, ...]
    warnings: tuple[str, ...]


def write_data_page(
    path: Path,
    dataset: AuditedDataset,
    statistics: SampleStatistics,
    findings: Sequence[Finding],
    embedding_findings: EmbeddingFindings,
) -> None:
    """Writes data.html.

    Args:
        path: The file.
        data: The data.
        looks: Of the samples that can be read.
        findings: What is wrong with them.
        judged: What a frozen tower's features tell.
    """
    table = dataset.table
    columns = [dataset.label_column, *(name for name in table.columns if name not in (dataset.label_column, "group"))]
    page = DataPage(
        title=dataset.source.name,
        command=" ".join(["python -m tfx_finetune.data", *sys.argv[1:]]),
        created=datetime.datetime.now().isoformat(" ", timespec="minutes"),
        unit=dataset.modality.unit,
        num_readable=len(dataset.readable_rows),
        splits={part: table.size(part) for part in dataset.source.sizes},
        counts={name: counts for name in columns if (counts := _count_values(dataset, name))},
        measurement_quantiles=tuple(
            (name, tuple(np.quantile(values, _QUANTILES))) for name, values in statistics.measurements.items()
        ),
        channel_statistics=compute_channel_statistics(statistics),
        feature_selections=embedding_findings.feature_selections,
        sections=_make_sections(dataset, findings),
        warnings=(*table.warnings, *filter(None, [embedding_findings.warning])),
    )
    write_page(path, "data.html.j2", page=page)


def compute_channel_statistics(statistics: SampleStatistics) -> tuple[tuple[str, float, float], ...]:
    """Mean and standard deviation of each channel over all pictures, each counting alike, 0 to 255."""
    if not statistics.channel_moments:
        return ()
    mean, square = (values.astype(np.float64).mean(0) for values in statistics.channel_moments)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(
        (name, float(m), float(d)) for name, m, d in zip(("red", "green", "blue"), mean, deviation, strict=True)
    )


def _count_values(dataset: AuditedDataset, column: str) -> dict[str, dict[str, int]]:
    """Samples of each value of a column in each part."""
    values = dataset.table.columns[column]
    parts = {part: count_classes(values[dataset.table.split == part]) for part in dataset.source.sizes}
    names = sorted({name for counts in parts.values() for name in counts})
    return {name: {part: counts.get(name, 0) for part, counts in parts.items()} for name in names}


def _make_sections(dataset: AuditedDataset, findings: Sequence[Finding]) -> tuple[FindingSection, ...]:
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    first = [finding for found in by_kind.values() for finding in found[:MAX_EXAMPLES]]
    exhibits = _load_previews(
        dataset, {row for finding in first for row in (finding.row, finding.other_row) if row >= 0}
    )
    return tuple(
        FindingSection(
            kind, len(found), todo, tuple(_make_example(dataset, finding, exhibits) for finding in found[:MAX_EXAMPLES])
        )
        for kind, todo in FINDING_KINDS.items()
        if (found := by_kind.get(kind, []))
    )


def _make_example(dataset: AuditedDataset, finding: Finding, previews: Mapping[int, SamplePreview]) -> FindingExample:
    table = dataset.table
    if finding.row < 0:
        return FindingExample(finding, "", "", "", SamplePreview())
    own = (
        str(table.file[finding.row]),
        str(table.split[finding.row]),
        format_labels(table.columns[dataset.label_column][finding.row]),
    )
    exhibit = previews.get(finding.row, SamplePreview())
    if finding.other_row < 0:
        return FindingExample(finding, *own, exhibit)
    other = str(table.file[finding.other_row]), str(table.split[finding.other_row])
    return FindingExample(finding, *own, exhibit, *other, previews.get(finding.other_row))


def _load_previews(dataset: AuditedDataset, rows: set[int]) -> dict[int, SamplePreview]:
    """What there is to see and hear of these samples, as far as they can be read."""
    member = np.zeros(len(dataset.table.file), bool)
    member[list(rows)] = True
    member &= dataset.table.error == ""
    if not member.any():
        return {}
    ((tower, kind),) = dataset.plan.modalities.items()
    card = {
        "image": PretrainedCfg(size=_PREVIEW_SIDE),
        "audio": PretrainedCfg(size=_PREVIEW_SECONDS * SAMPLE_RATE, sample_rate=SAMPLE_RATE),
    }.get(kind, PretrainedCfg(1))
    small = build_modality(dataset.plan.run, kind, card)
    samples = Data(dataset.source, dataset.table, {tower: small}, {tower: dataset.column}, {}, (), 32, EpochSampler(0))
    each = zip(
        np.flatnonzero(member).tolist(),
        samples.read_raw_contents(member),
        samples.prepared_inputs(member)[tower],
        strict=True,
    )
    return {row: small.preview(raw[tower], np.asarray(prepared)) for row, raw, prepared in each}
