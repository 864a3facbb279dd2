"""What is in a source: every sample is read once, so that whatever cannot be read is known before training."""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import convert_to_text
from tfx_finetune.datasets.validation import check_annotations, check_contents, make_decoder
from tfx_finetune.ops.annotations import AnnotationIssues
from tfx_finetune.ops.tf_data import as_numpy, get_schema
from tfx_finetune.types import table
from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.localization import LocalizationTarget
from tfx_finetune.types.table import Table

Row: TypeAlias = dict[str, Any]

# What to do with data that has no labels of whole samples.
_HEAD_HINTS = {"objects": "use --heads=detect()", "mask": "use --heads=segment()"}


def assign_columns(source: Source, modalities: Mapping[str, Modality]) -> dict[str, str]:
    """The column of the data that each tower takes, two maybe the same: that of its name, else that of its modality.

    Raises:
        UserError: There is none.
    """
    known = get_schema(source)
    found: dict[str, str] = {}
    for tower, modality in modalities.items():
        column = tower if tower in known else modality.column
        if column not in known:
            todo = "take a backbone for what the data has, or other data"
            raise UserError(f"the data has no {column} for a tower", got=source.name, expected=list(known), hint=todo)
        found[tower] = column
    return found


def survey(
    source: Source,
    modalities: Mapping[str, Modality],
    tower_columns: Mapping[str, str],
    label_columns: tuple[str, ...],
    localization_targets: Mapping[str, LocalizationTarget] = MappingProxyType({}),
) -> Table:
    """Reads and decodes every sample once, so that whatever cannot be read is known before training.

    Args:
        source: Where the samples come from.
        modalities: How they are decoded, by tower.
        places: The column that each tower takes.
        columns: Label columns to keep.
        located: Those that say where in a picture something is; of these the classes are kept.

    Returns:
        A table whose `split` holds the source's own parts (`all` where it has none) for readable samples.

    Raises:
        UserError: A column is missing, or there is no sample.
    """
    _check_columns(source, label_columns)
    known = get_schema(source)
    keep = tuple(dict.fromkeys((*label_columns, "group", *(lane for lane in table.SLICE_COLUMNS if lane in known))))
    # Made before there are threads, each of which would make its own.
    decoders = {tower: make_decoder(modality.decode) for tower, modality in modalities.items()}
    look = functools.partial(_scan_samples, source, modalities, tower_columns, decoders, keep, localization_targets)

    def rows() -> Iterator[tuple[str, Row]]:
        for part in source.sizes:
            yield from ((part, sample) for sample in as_numpy(source.read(part)))

    found: list[_ScannedSample] = []
    total = sum(source.sizes.values())
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("read data", total) as advance:
        for chunk in _iterate_chunks(_iterate_chunks(rows(), 8), 32):
            found += itertools.chain.from_iterable(pool.map(look, chunk))
            advance(sum(map(len, chunk)), f"{len(found)} samples of {source.name}")
    if not found:
        raise UserError("the data has no samples", got=source.name)
    seen = _ScannedSample(*zip(*found, strict=True))
    return Table(
        _make_object_array(seen.file),
        _make_object_array(seen.digest),
        _make_object_array(seen.error),
        _make_object_array(seen.part),
        _make_columns(keep, seen.values),
        _make_columns((*modalities, *localization_targets), seen.digests),
        (
            *getattr(source, "notes", ()),
            *_warn_about_modalities(_make_columns(modalities, seen.warnings), modalities),
            *_report_repairs(seen.file, seen.repairs),
        ),
    )


class _ScannedSample(NamedTuple):
    """A sample, or in each field that of all of them.

    file, digest, why, part: See `Table`; `part` is its `split`.
    contents: Hash of what each tower takes, then of each column that says where something is.
    remarks: What a person should know, by tower.
    mended: What is mended or left out of what says where something is.
    values: Of the columns to keep.
    """

    file: Any
    digest: Any
    error: Any
    part: Any
    digests: Any
    warnings: Any
    repairs: Any
    values: Any


def _scan_samples(
    source: Source,
    modalities: Mapping[str, Modality],
    tower_columns: Mapping[str, str],
    decoders: Mapping[str, Callable],
    table_columns: Sequence[str],
    localization_targets: Mapping[str, LocalizationTarget],
    rows: Sequence[tuple[str, Row]],
) -> list[_ScannedSample]:
    """Looks at some samples, each with the part that it is of."""
    examined = []
    for tower, modality in modalities.items():
        contents = [sample[tower_columns[tower]] for _, sample in rows]
        how = (decoders[tower], modality.error_message, modality.warning)
        examined.append(
            check_contents(contents, tower_columns[tower] in source.paths, *how, allow_missing=len(modalities) > 1)
        )
    found = []
    for (part, sample), each in zip(rows, zip(*examined, strict=True), strict=True):
        digest, why = _combine_towers(modalities, each)
        digests, _, remarks = zip(*each, strict=True)
        told = check_annotations(source, sample, localization_targets, next(iter(tower_columns.values())))
        why = why or next((mark.error for mark in told.values() if mark.error), "")
        values = tuple(
            told[column].classes if column in told else convert_to_text(sample.get(column, ""))
            for column in table_columns
        )
        hashes = (*digests, *(mark.digest for mark in told.values()))
        mended = tuple(what for mark in told.values() for what in mark.repairs)
        file = convert_to_text(sample["file"])
        found.append(_ScannedSample(file, digest, why, "" if why else part, hashes, remarks, mended, values))
    return found


def _make_object_array(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=object)


def _make_columns(names: Iterable[str], rows: Iterable[Sequence[str]]) -> dict[str, np.ndarray]:
    return {name: _make_object_array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _warn_about_modalities(warnings: Mapping[str, np.ndarray], modalities: Mapping[str, Modality]) -> Iterator[str]:
    """What a person should know of samples that can be read, said and returned."""
    for tower, said in warnings.items():
        for remark, count in sorted(Counter(filter(None, said)).items()):
            note = f"{count} of {len(said)} {modalities[tower].unit} are {remark}"
            progress.log(note)
            yield note


def _report_repairs(files: Sequence[str], repairs: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What was mended or left out of what says where something is, counted by file, said and returned."""
    care = AnnotationIssues()
    for file, found in zip(files, repairs, strict=True):
        for what in found:
            care.count(what, file)
    return care.report()


def _combine_towers(modalities: Mapping[str, Modality], checks: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Hash and complaint of a sample, of those of what each tower takes."""
    if len(checks) == 1:
        return checks[0][:2]
    digests, whys, _ = zip(*checks, strict=True)
    why = "; ".join(f"{tower}: {why}" for tower, why in zip(modalities, whys, strict=True) if why)
    if not why and not any(digests):
        why = f"has none of {', '.join(modalities)}"
    return "" if why else hashlib.sha256("/".join(digests).encode()).hexdigest(), why


def _check_columns(source: Source, columns: tuple[str, ...]) -> None:
    known = get_schema(source)
    if missing := [column for column in columns if column not in known]:
        fitting = next((head for column, head in _HEAD_HINTS.items() if column in known and missing[0] == "label"), "")
        todo = fitting or did_you_mean(missing[0], known) or "name one of them with column="
        raise UserError("the data has no such column", got=missing[0], expected=sorted(known), hint=todo)


def _iterate_chunks(rows: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
