"""Write data.html: issues of a data set with previews, class counts and statistics."""

import dataclasses
import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfx_finetune.data.dataset import AuditedDataset
from tfx_finetune.data.embeddings import EmbeddingAnalysis, FeatureSelectionScore
from tfx_finetune.data.fingerprints import SAMPLE_RATE, SampleStatistics
from tfx_finetune.data.issues import ISSUE_HINTS, DataIssue, count_classes, format_labels
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.report.html import write_page
from tfx_finetune.types.components import PretrainedCfg, SamplePreview

MAX_EXAMPLES = 12
"""Maximum number of examples per kind of issue."""
_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_PREVIEW_SIDE, _PREVIEW_SECONDS = 160, 5


@dataclass(frozen=True)
class IssueExample:
    """Issue with previews of its samples.

    Attributes:
        issue: The issue.
        file: File name of the sample; empty for an issue of a class.
        split: Split of the sample.
        label: Label of the sample, as text.
        preview: Preview of the sample.
        other_file: File name of the other sample of a pair; empty for none.
        other_split: Split of the other sample.
        other_preview: Preview of the other sample; None for none.
    """

    issue: DataIssue
    file: str
    split: str
    label: str
    preview: SamplePreview
    other_file: str = ""
    other_split: str = ""
    other_preview: SamplePreview | None = None


@dataclass(frozen=True)
class IssueSection:
    """Issues of one kind.

    Attributes:
        kind: Kind of the issues, a key of `ISSUE_HINTS`.
        count: int > 0. Number of issues.
        hint: What to do about them.
        examples: Up to `MAX_EXAMPLES` of the issues.
    """

    kind: str
    count: int
    hint: str
    examples: tuple[IssueExample, ...]


@dataclass(frozen=True)
class DataPage:
    """Content of data.html.

    Attributes:
        title: Name of the data set.
        command: Command line of the audit.
        created: Date and time of the audit, as text.
        unit: Plural noun for the samples, such as `images`.
        num_readable: int >= 0. Number of readable samples.
        splits: Number of samples by split.
        counts: Number of samples by column (label, source, language), value and split.
        measurement_quantiles: `(measurement, values at the quantiles 0, 0.05, 0.5, 0.95 and 1)`.
        channel_statistics: `(channel, mean, standard deviation)` of pixels in [0, 255]; empty for audio and text.
        feature_selections: Accuracy of a linear classifier on selections of the features.
        sections: Issues by kind.
        warnings: Warnings about the data and the audit.
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
    sections: tuple[IssueSection, ...]
    warnings: tuple[str, ...]


def write_data_page(
    path: Path,
    dataset: AuditedDataset,
    statistics: SampleStatistics,
    issues: Sequence[DataIssue],
    analysis: EmbeddingAnalysis,
) -> None:
    """Write data.html.

    Args:
        path: Path of the HTML file.
        dataset: Audited data set.
        statistics: Statistics of the readable samples.
        issues: All issues.
        analysis: Analysis of the backbone features.
    """
    table = dataset.table
    columns = [dataset.label_column, *(name for name in table.columns if name not in (dataset.label_column, "group"))]
    page = DataPage(
        title=dataset.source.name,
        command=" ".join(["python -m tfx_finetune.data", *sys.argv[1:]]),
        created=datetime.datetime.now().isoformat(" ", timespec="minutes"),
        unit=dataset.modality.unit,
        num_readable=len(dataset.readable_rows),
        splits={split: table.size(split) for split in dataset.source.sizes},
        counts={name: counts for name in columns if (counts := _count_values(dataset, name))},
        measurement_quantiles=tuple(
            (name, tuple(np.quantile(values, _QUANTILES))) for name, values in statistics.measurements.items()
        ),
        channel_statistics=compute_channel_statistics(statistics),
        feature_selections=analysis.feature_selections,
        sections=_make_sections(dataset, issues),
        warnings=(*table.warnings, *filter(None, [analysis.warning])),
    )
    write_page(path, "data.html.j2", page=page)


def compute_channel_statistics(statistics: SampleStatistics) -> tuple[tuple[str, float, float], ...]:
    """Return (channel, mean, standard deviation) of the pixels in [0, 255]; every image has the same weight.

    Args:
        statistics: Statistics of the readable samples.
    """
    if not statistics.channel_moments:
        return ()
    mean, square = (values.astype(np.float64).mean(0) for values in statistics.channel_moments)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(
        (name, float(m), float(d)) for name, m, d in zip(("red", "green", "blue"), mean, deviation, strict=True)
    )


def _count_values(dataset: AuditedDataset, column: str) -> dict[str, dict[str, int]]:
    """Return the number of samples of each value of a column in each split."""
    values = dataset.table.columns[column]
    by_split = {split: count_classes(values[dataset.table.split == split]) for split in dataset.source.sizes}
    names = sorted({name for counts in by_split.values() for name in counts})
    return {name: {split: counts.get(name, 0) for split, counts in by_split.items()} for name in names}


def _make_sections(dataset: AuditedDataset, issues: Sequence[DataIssue]) -> tuple[IssueSection, ...]:
    """Return the issues by kind, each with examples."""
    by_kind: dict[str, list[DataIssue]] = {}
    for issue in issues:
        by_kind.setdefault(issue.kind, []).append(issue)
    examples = [issue for kind_issues in by_kind.values() for issue in kind_issues[:MAX_EXAMPLES]]
    previews = _load_previews(dataset, {row for issue in examples for row in (issue.row, issue.other_row) if row >= 0})
    return tuple(
        IssueSection(
            kind,
            len(kind_issues),
            hint,
            tuple(_make_example(dataset, issue, previews) for issue in kind_issues[:MAX_EXAMPLES]),
        )
        for kind, hint in ISSUE_HINTS.items()
        if (kind_issues := by_kind.get(kind, []))
    )


def _make_example(dataset: AuditedDataset, issue: DataIssue, previews: Mapping[int, SamplePreview]) -> IssueExample:
    """Return an issue with the previews of its samples."""
    table, row, other_row = dataset.table, issue.row, issue.other_row
    if row < 0:
        return IssueExample(issue, "", "", "", SamplePreview())
    label = format_labels(table.columns[dataset.label_column][row])
    example = IssueExample(
        issue, str(table.file[row]), str(table.split[row]), label, previews.get(row, SamplePreview())
    )
    if other_row < 0:
        return example
    return dataclasses.replace(
        example,
        other_file=str(table.file[other_row]),
        other_split=str(table.split[other_row]),
        other_preview=previews.get(other_row),
    )


def _load_previews(dataset: AuditedDataset, rows: set[int]) -> dict[int, SamplePreview]:
    """Return previews of the readable samples among `rows`."""
    mask = np.zeros(len(dataset.table.file), bool)
    mask[list(rows)] = True
    mask &= dataset.table.error == ""
    if not mask.any():
        return {}
    ((tower, modality_name),) = dataset.plan.modalities.items()
    pretrained_cfg = {
        "image": PretrainedCfg(size=_PREVIEW_SIDE),
        "audio": PretrainedCfg(size=_PREVIEW_SECONDS * SAMPLE_RATE, sample_rate=SAMPLE_RATE),
    }.get(modality_name, PretrainedCfg(1))
    modality = build_modality(dataset.plan.run, modality_name, pretrained_cfg)
    columns, sampler = {tower: dataset.column}, EpochSampler(0)
    data = Data(dataset.source, dataset.table, {tower: modality}, columns, {}, (), 32, sampler)
    samples = zip(
        np.flatnonzero(mask).tolist(),
        data.read_raw_contents(mask),
        data.prepared_inputs(mask)[tower],
        strict=True,
    )
    return {row: modality.preview(contents[tower], np.asarray(prepared)) for row, contents, prepared in samples}
