"""Survey of a source: every sample is read and decoded once, to find unreadable samples before training."""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.datasets.validation import (
    ContentCheck,
    ContentDecoder,
    check_annotations,
    check_contents,
    make_decoder,
)
from tfx_finetune.ops.annotations import AnnotationIssues
from tfx_finetune.ops.tf_data import as_numpy, get_schema
from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.localization import LocalizationTarget
from tfx_finetune.types.table import SLICE_COLUMNS, Table

Row: TypeAlias = dict[str, Any]

# Hints for data without labels of whole images, by the column of its annotations.
_HEAD_HINTS = {"objects": "use --heads=detect()", "mask": "use --heads=segment()"}
_ROWS_PER_CALL = 8
_CALLS_PER_CHUNK = 32


def assign_columns(source: Source, modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Return the column that each tower reads: the column of its name, else that of its modality.

    Args:
        source: Source of the samples.
        modalities: Modalities by tower. Two towers may read the same column.

    Raises:
        UserError: If the data lacks a column.
    """
    schema = get_schema(source)
    columns: dict[str, str] = {}
    for tower, modality in modalities.items():
        column = tower if tower in schema else modality.column
        if column not in schema:
            hint = "use a backbone for a modality of the data, or other data"
            raise UserError(f"The data has no column {column}", got=source.name, expected=list(schema), hint=hint)
        columns[tower] = column
    return columns


class _Columns(NamedTuple):
    """Columns of a source that a survey reads.

    Attributes:
        towers: Column of each tower.
        decoders: Content decoder of each tower.
        labels: Columns whose values are kept.
        localizations: Localization target of each column with annotations.
    """

    towers: Mapping[str, str]
    decoders: Mapping[str, ContentDecoder]
    labels: Sequence[str]
    localizations: Mapping[str, LocalizationTarget]


class _ScannedSample(NamedTuple):
    """Result of reading one sample.

    Attributes:
        file, digest, error: See `Table`.
        part: Part of the source; empty if the sample cannot be used.
        digests: Hash of each tower's content, then of each column with annotations.
        warnings: Warning of each tower.
        repairs: Repairs of the annotations.
        values: Values of the label columns.
    """

    file: str
    digest: str
    error: str
    part: str
    digests: tuple[str, ...]
    warnings: tuple[str, ...]
    repairs: tuple[str, ...]
    values: tuple[str, ...]


def survey(
    source: Source,
    modalities: Mapping[str, Modality],
    tower_columns: Mapping[str, str],
    label_columns: tuple[str, ...],
    localization_columns: Mapping[str, LocalizationTarget] = MappingProxyType({}),
) -> Table:
    """Read and decode every sample once.

    Args:
        source: Source of the samples.
        modalities: Modalities by tower, which decode the samples.
        tower_columns: Column that each tower reads.
        label_columns: Label columns to keep.
        localization_columns: Localization target of each column with annotations; their classes are kept.

    Returns:
        A table whose `split` is the part of the source (`all` for a source without splits), empty for samples that
        cannot be used.

    Raises:
        UserError: If a column is missing, or there is no sample.
    """
    schema = get_schema(source)
    _check_columns(schema, label_columns)
    slice_columns = (column for column in SLICE_COLUMNS if column in schema)
    columns = _Columns(
        tower_columns,
        # Made here and not in the threads, each of which would make its own.
        {
            tower: ContentDecoder(make_decoder(modality.decode), modality.error_message, modality.warning)
            for tower, modality in modalities.items()
        },
        tuple(dict.fromkeys((*label_columns, "group", *slice_columns))),
        localization_columns,
    )
    scan = functools.partial(_scan_samples, source, columns)

    def iterate_rows() -> Iterator[tuple[str, Row]]:
        for part in source.sizes:
            yield from ((part, sample) for sample in as_numpy(source.read(part)))

    samples: list[_ScannedSample] = []
    total = sum(source.sizes.values())
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("read data", total) as advance:
        for chunk in _iterate_chunks(_iterate_chunks(iterate_rows(), _ROWS_PER_CALL), _CALLS_PER_CHUNK):
            samples += itertools.chain.from_iterable(pool.map(scan, chunk))
            advance(sum(map(len, chunk)), f"{len(samples)} samples of {source.name}")
    if not samples:
        raise UserError("The data has no samples", got=source.name)
    return Table(
        _make_object_array(sample.file for sample in samples),
        _make_object_array(sample.digest for sample in samples),
        _make_object_array(sample.error for sample in samples),
        _make_object_array(sample.part for sample in samples),
        _make_columns(columns.labels, [sample.values for sample in samples]),
        _make_columns((*modalities, *localization_columns), [sample.digests for sample in samples]),
        (
            *getattr(source, "warnings", ()),
            *_warn_about_modalities(_make_columns(modalities, [sample.warnings for sample in samples]), modalities),
            *_report_repairs(samples),
        ),
    )


def _scan_samples(source: Source, columns: _Columns, rows: Sequence[tuple[str, Row]]) -> list[_ScannedSample]:
    """Check some samples, each given with its part."""
    checks_by_tower = []
    for tower, column in columns.towers.items():
        contents = [sample[column] for _, sample in rows]
        allow_missing = len(columns.towers) > 1
        checks_by_tower.append(
            check_contents(contents, column in source.paths, columns.decoders[tower], allow_missing=allow_missing)
        )
    image_column = next(iter(columns.towers.values()))
    samples = []
    for (part, sample), checks in zip(rows, zip(*checks_by_tower, strict=True), strict=True):
        digest, error = _combine_towers(list(columns.towers), checks)
        annotations = check_annotations(source, sample, columns.localizations, image_column)
        error = error or next((check.error for check in annotations.values() if check.error), "")
        values = tuple(
            annotations[column].classes if column in annotations else convert_to_text(sample.get(column, ""))
            for column in columns.labels
        )
        samples.append(
            _ScannedSample(
                file=convert_to_text(sample["file"]),
                digest=digest,
                error=error,
                part="" if error else part,
                digests=(*(check.digest for check in checks), *(check.digest for check in annotations.values())),
                warnings=tuple(check.warning for check in checks),
                repairs=tuple(repair for check in annotations.values() for repair in check.repairs),
                values=values,
            )
        )
    return samples


def _make_object_array(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=object)


def _make_columns(names: Iterable[str], rows: Iterable[Sequence[str]]) -> dict[str, np.ndarray]:
    return {name: _make_object_array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _warn_about_modalities(warnings: Mapping[str, np.ndarray], modalities: Mapping[str, Modality]) -> Iterator[str]:
    """Log and yield the warnings of readable samples, counted by tower."""
    for tower, tower_warnings in warnings.items():
        for warning, count in sorted(Counter(filter(None, tower_warnings)).items()):
            line = f"{count} of {len(tower_warnings)} {modalities[tower].unit} are {warning}"
            progress.log(line)
            yield line


def _report_repairs(samples: Sequence[_ScannedSample]) -> tuple[str, ...]:
    """Log and return the repairs of annotations, counted by file."""
    issues = AnnotationIssues()
    for sample in samples:
        for repair in sample.repairs:
            issues.count(repair, sample.file)
    return issues.report()


def _combine_towers(towers: Sequence[str], checks: Sequence[ContentCheck]) -> tuple[str, str]:
    """Return the hash and the error of a sample from the checks of its towers."""
    if len(checks) == 1:
        return checks[0].digest, checks[0].error
    error = "; ".join(f"{tower}: {check.error}" for tower, check in zip(towers, checks, strict=True) if check.error)
    if not error and not any(check.digest for check in checks):
        error = f"has none of {', '.join(towers)}"
    digests = "/".join(check.digest for check in checks)
    return "" if error else hashlib.sha256(digests.encode()).hexdigest(), error


def _check_columns(schema: Mapping[str, Any], columns: tuple[str, ...]) -> None:
    if missing := [column for column in columns if column not in schema]:
        heads = (hint for column, hint in _HEAD_HINTS.items() if column in schema and missing[0] == "label")
        hint = next(heads, "") or did_you_mean(missing[0], schema) or "name one of them by column="
        raise UserError("The data has no such column", got=missing[0], expected=sorted(schema), hint=hint)


def _iterate_chunks(items: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk
