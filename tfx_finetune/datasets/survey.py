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
from tfx_finetune.datasets.sources.in_memory import as_text
from tfx_finetune.datasets.validation import decoder, examine, marks
from tfx_finetune.ops.annotations import Care
from tfx_finetune.ops.tf_data import as_numpy, schema
from tfx_finetune.types import table
from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.localization import Places
from tfx_finetune.types.table import Table

Row: TypeAlias = dict[str, Any]

# What to do with data that has no labels of whole samples.
_HEADS = {"objects": "use --heads=detect()", "mask": "use --heads=segment()"}


def placed(source: Source, modalities: Mapping[str, Modality]) -> dict[str, str]:
    """The column of the data that each tower takes, two maybe the same: that of its name, else that of its modality.

    Raises:
        UserError: There is none.
    """
    known = schema(source)
    found: dict[str, str] = {}
    for tower, modality in modalities.items():
        column = tower if tower in known else modality.column
        if column not in known:
            todo = "take a backbone for what the data has, or other data"
            raise UserError(
                f"the data has no {column} for a tower", received=source.name, allowed=list(known), todo=todo
            )
        found[tower] = column
    return found


def survey(
    source: Source,
    modalities: Mapping[str, Modality],
    places: Mapping[str, str],
    columns: tuple[str, ...],
    located: Mapping[str, Places] = MappingProxyType({}),
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
    _check_columns(source, columns)
    known = schema(source)
    keep = tuple(dict.fromkeys((*columns, "group", *(lane for lane in table.LANES if lane in known))))
    # Made before there are threads, each of which would make its own.
    decoders = {tower: decoder(modality.decode) for tower, modality in modalities.items()}
    look = functools.partial(_look, source, modalities, places, decoders, keep, located)

    def rows() -> Iterator[tuple[str, Row]]:
        for part in source.sizes:
            yield from ((part, sample) for sample in as_numpy(source.read(part)))

    found: list[_Seen] = []
    total = sum(source.sizes.values())
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("read data", total) as advance:
        for chunk in _chunks(_chunks(rows(), 8), 32):
            found += itertools.chain.from_iterable(pool.map(look, chunk))
            advance(sum(map(len, chunk)), f"{len(found)} samples of {source.name}")
    if not found:
        raise UserError("the data has no samples", received=source.name)
    seen = _Seen(*zip(*found, strict=True))
    return Table(
        _objects(seen.file),
        _objects(seen.digest),
        _objects(seen.why),
        _objects(seen.part),
        _by_name(keep, seen.values),
        _by_name((*modalities, *located), seen.contents),
        (
            *getattr(source, "notes", ()),
            *_remarks(_by_name(modalities, seen.remarks), modalities),
            *_mended(seen.file, seen.mended),
        ),
    )


class _Seen(NamedTuple):
    """A sample, or in each field that of all of them.

    file, digest, why, part: See `Table`; `part` is its `split`.
    contents: Hash of what each tower takes, then of each column that says where something is.
    remarks: What a person should know, by tower.
    mended: What is mended or left out of what says where something is.
    values: Of the columns to keep.
    """

    file: Any
    digest: Any
    why: Any
    part: Any
    contents: Any
    remarks: Any
    mended: Any
    values: Any


def _look(
    source: Source,
    modalities: Mapping[str, Modality],
    places: Mapping[str, str],
    decoders: Mapping[str, Callable],
    keep: Sequence[str],
    located: Mapping[str, Places],
    rows: Sequence[tuple[str, Row]],
) -> list[_Seen]:
    """Looks at some samples, each with the part that it is of."""
    examined = []
    for tower, modality in modalities.items():
        contents = [sample[places[tower]] for _, sample in rows]
        how = (decoders[tower], modality.reason, modality.remark)
        examined.append(examine(contents, places[tower] in source.paths, *how, lacking=len(modalities) > 1))
    found = []
    for (part, sample), each in zip(rows, zip(*examined, strict=True), strict=True):
        digest, why = _joint(modalities, each)
        digests, _, remarks = zip(*each, strict=True)
        told = marks(source, sample, located, next(iter(places.values())))
        why = why or next((mark.why for mark in told.values() if mark.why), "")
        values = tuple(told[column].classes if column in told else as_text(sample.get(column, "")) for column in keep)
        hashes = (*digests, *(mark.digest for mark in told.values()))
        mended = tuple(what for mark in told.values() for what in mark.mended)
        file = as_text(sample["file"])
        found.append(_Seen(file, digest, why, "" if why else part, hashes, remarks, mended, values))
    return found


def _objects(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=object)


def _by_name(names: Iterable[str], rows: Iterable[Sequence[str]]) -> dict[str, np.ndarray]:
    return {name: _objects(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _remarks(remarks: Mapping[str, np.ndarray], modalities: Mapping[str, Modality]) -> Iterator[str]:
    """What a person should know of samples that can be read, said and returned."""
    for tower, said in remarks.items():
        for remark, count in sorted(Counter(filter(None, said)).items()):
            note = f"{count} of {len(said)} {modalities[tower].noun} are {remark}"
            progress.say(note)
            yield note


def _mended(files: Sequence[str], findings: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What was mended or left out of what says where something is, counted by file, said and returned."""
    care = Care()
    for file, found in zip(files, findings, strict=True):
        for what in found:
            care.count(what, file)
    return care.told()


def _joint(modalities: Mapping[str, Modality], each: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Hash and complaint of a sample, of those of what each tower takes."""
    if len(each) == 1:
        return each[0][:2]
    digests, whys, _ = zip(*each, strict=True)
    why = "; ".join(f"{tower}: {why}" for tower, why in zip(modalities, whys, strict=True) if why)
    if not why and not any(digests):
        why = f"has none of {', '.join(modalities)}"
    return "" if why else hashlib.sha256("/".join(digests).encode()).hexdigest(), why


def _check_columns(source: Source, columns: tuple[str, ...]) -> None:
    known = schema(source)
    if missing := [column for column in columns if column not in known]:
        fitting = next((head for column, head in _HEADS.items() if column in known and missing[0] == "label"), "")
        todo = fitting or did_you_mean(missing[0], known) or "name one of them with column="
        raise UserError("the data has no such column", received=missing[0], allowed=sorted(known), todo=todo)


def _chunks(rows: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
