"""STATION: what is in a source: which samples can be read, on which side of the split they stand, which classes."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_finetune import splits
from tfx_finetune.contracts import LABEL_SEPARATOR, SOURCES, SPLITS, Labels, Modality, Source, Task
from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.dataset import finished
from tfx_finetune.examine import decoder, examine
from tfx_finetune.plan import Plan


@dataclass(frozen=True)
class Table:
    """One row a sample of the source, in the order in which it is read; all arrays are (n,).

    Attributes:
        file: What a person would call the sample.
        digest: Hash of the content; empty where it cannot be read.
        reason: Why the sample cannot be used; empty where it can.
        split: `train`, `val`, `test`, or empty for a sample that cannot be used.
        columns: Label columns by name.
        notes: What a person should know about the split.
    """

    file: np.ndarray
    digest: np.ndarray
    reason: np.ndarray
    split: np.ndarray
    columns: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def size(self, split: str) -> int:
        """Samples of a split."""
        return int((self.split == split).sum())

    @property
    def bad(self) -> list[tuple[str, str]]:
        """`(file, reason)` of every sample that cannot be used."""
        return [(str(f), str(r)) for f, r in zip(self.file, self.reason, strict=True) if r]


def survey(source: Source, modality: Modality, columns: tuple[str, ...]) -> Table:
    """Reads and decodes every sample once, so that whatever cannot be read is known before training.

    Args:
        source: Where the samples come from.
        modality: How they are decoded.
        columns: Label columns to keep.

    Returns:
        A table whose `split` holds the source's own parts (`all` where it has none) for readable samples.

    Raises:
        UserError: A column is missing, or there is no sample.
    """
    _check_columns(source, columns)
    decode = decoder(modality.decode)
    keep = (*columns, "group")

    def look(rows: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
        contents = [sample[modality.column] for _, sample in rows]
        examined = examine(contents, modality.column in source.paths, decode)
        return [
            (_text(sample["file"]), digest, why, "" if why else part, *(_text(sample.get(c, "")) for c in keep))
            for (part, sample), (digest, why) in zip(rows, examined, strict=True)
        ]

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for part in source.sizes:
            yield from ((part, sample) for sample in finished(source.read(part)).as_numpy_iterator())

    found: list[tuple[str, ...]] = []
    total = sum(source.sizes.values())
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("read data", total) as advance:
        for chunk in _chunks(_chunks(rows(), 8), 32):
            found += itertools.chain.from_iterable(pool.map(look, chunk))
            advance(sum(map(len, chunk)), f"{len(found)} samples of {source.name}")
    if not found:
        raise UserError("the data has no samples", received=source.name)
    file, digest, why, part, *values = (np.array(column, dtype=object) for column in zip(*found, strict=True))
    return Table(file, digest, why, part, dict(zip(keep, values, strict=True)))


def load(plan: Plan, modality: Modality) -> tuple[Source, Table, dict[str, Labels]]:
    """Opens the source, surveys it, splits it, and collects the classes of every head.

    Raises:
        UserError: The data cannot be used as it is; the message says why.
    """
    source = SOURCES.build(plan.source)
    table = survey(source, modality, _columns(plan))
    _check_bad(table, plan.run.samples.max_bad, "--samples.max_bad")
    table = _split(table, source, plan)
    labels = {head: _labels(table, source, task) for head, task in plan.drafts.items()}
    if not table.size("test"):
        todo = "give it a test split of its own, or more samples that are not copies or of one group"
        raise UserError("no sample is left to test on", received=source.name, todo=todo)
    return source, table, labels


def opened(source: Source, modality: Modality, tasks: Mapping[str, Task], part: str, max_bad: float) -> Table:
    """Surveys labelled data for a model that exists; the wanted samples stand in the split `test`.

    Args:
        source: The data.
        modality: The model's.
        tasks: The model's heads.
        part: A part that the data comes with; empty for all of it.
        max_bad: Share of unreadable samples above which this fails.

    Raises:
        UserError: Too much cannot be read, or a label is none of the model's.
    """
    if part and part not in source.sizes:
        raise UserError("the data has no such split", received=part, allowed=list(source.sizes))
    columns = tuple({task.column: None for task in tasks.values()})
    table = survey(source, modality, columns)
    _check_bad(table, max_bad, "--max_bad")
    wanted = (table.split != "") & ((table.split == part) | (part == ""))
    if not wanted.any():
        raise UserError("no sample of this split can be read", received=part)
    table = dataclasses.replace(table, split=np.where(wanted, "test", "").astype(object))
    for task in tasks.values():
        if task.single:
            _check_single(table, task.column)
        if unknown := sorted(set(_classes(table.columns[task.column][wanted])) - set(task.labels.names)):
            raise UserError("a label that the model does not know", received=unknown[0], allowed=task.labels.names)
    return table


def _check_columns(source: Source, columns: tuple[str, ...]) -> None:
    known = source.read(next(iter(source.sizes))).element_spec
    if missing := [column for column in columns if column not in known]:
        todo = did_you_mean(missing[0], known) or "name one of them with column= of the head"
        raise UserError("the data has no such column", received=missing[0], allowed=sorted(known), todo=todo)


def _columns(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task.column for task in plan.drafts.values()))


def _check_bad(table: Table, max_bad: float, flag: str) -> None:
    bad, count = table.bad, len(table.file)
    if len(bad) / count > max_bad or len(bad) == count:
        shown = "; ".join(f"{file}: {why}" for file, why in bad[:3]) + (", ..." if len(bad) > 3 else "")
        todo = "mend or remove them" if len(bad) == count else f"mend or remove them, or raise {flag}"
        allowed = f"a share of {max_bad}"
        raise UserError(f"{len(bad)} of {count} samples cannot be read", received=shown, allowed=allowed, todo=todo)
    if bad:
        progress.say(f"{len(bad)} of {count} samples cannot be read and are left out; the report lists them")


def _split(table: Table, source: Source, plan: Plan) -> Table:
    """Carves the splits that the source lacks out of its training part."""
    samples = plan.run.samples
    part = "all" if "all" in source.sizes else "train"
    if part not in source.sizes:
        todo = "give it a split train, or none, so that one is made"
        raise UserError("the data has no training part", received=", ".join(source.sizes), todo=todo)
    # Test comes first: a class of two samples has the second one there.
    wanted = {"test": samples.test, "val": samples.val}
    shares = {name: share for name, share in wanted.items() if name not in source.sizes and share > 0}
    rows = np.flatnonzero(table.split == part)
    # Stratified by all heads at once, so that no class of any of them goes without training samples.
    keys = [_keys(table, row, _columns(plan)) for row in rows.tolist()]
    split = table.split.copy()
    split[rows] = splits.assign(table.digest[rows], keys, table.columns["group"][rows], shares, plan.run.seed)
    return dataclasses.replace(table, split=split, notes=tuple(_notes(table, split)))


def _keys(table: Table, row: int, columns: tuple[str, ...]) -> str:
    """The row's labels in all columns."""
    labels = ((column, label) for column in columns for label in table.columns[column][row].split(LABEL_SEPARATOR))
    return LABEL_SEPARATOR.join(f"{column}={label}" for column, label in labels)


def _notes(table: Table, split: np.ndarray) -> Iterator[str]:
    used = split != ""
    digest, side = table.digest[used], split[used]
    if extra := len(digest) - len(set(digest)):
        yield f"{extra} samples are exact copies of another one; copies are kept on one side of a split made here"
    if count := _scattered(digest, side):
        yield f"{count} pictures stand in more than one of the splits that the data came with"
    for column, values in table.columns.items():
        if column == "group":
            grouped = values[used] != ""
            if count := _scattered(values[used][grouped], side[grouped]):
                yield f"{count} groups stand in more than one of the splits that the data came with"
        elif count := _scattered(digest, values[used]):
            yield f"{count} pictures have copies with another {column}"


def _scattered(keys: Iterable[str], values: Iterable[str]) -> int:
    """How many keys have more than one value."""
    found: dict[str, set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, set()).add(value)
    return sum(len(several) > 1 for several in found.values())


def _labels(table: Table, source: Source, task: Task) -> Labels:
    column, values = task.column, table.columns[task.column]
    per_split = {side: Counter(_classes(values[table.split == side])) for side in SPLITS}
    trained = per_split["train"]
    names = source.labels if column == "label" and source.labels else tuple(sorted(trained))
    lost = set(_classes(values[table.reason != ""])) - set(_classes(values[table.reason == ""]))
    if lost:
        todo = "mend its files, or leave it out"
        raise UserError("no sample of a class can be read", received=min(lost), todo=todo)
    if unseen := (set(per_split["val"]) | set(per_split["test"])) - set(trained):
        todo = "give it training samples, or leave it out"
        raise UserError("a class of the held-out data never occurs in training", received=min(unseen), todo=todo)
    if task.single:
        _check_single(table, column)
        if len(trained) < 2:
            todo = "classification wants at least two; the classes of a folder are its sub-folders"
            raise UserError("one class only", received=", ".join(trained), todo=todo)
    if not trained:
        raise UserError("no sample has a label", received=f"column {column}")
    everywhere = sum(per_split.values(), Counter())
    if alone := [name for name in names if everywhere[name] == 1]:
        what = "a class with one sample, which cannot be both learned and tested"
        raise UserError(what, received=alone[0], todo="add samples to it or leave it out")
    return Labels(names, tuple(trained[name] for name in names), table.size("train"))


def _check_single(table: Table, column: str) -> None:
    """Classification wants exactly one label a sample."""
    used = table.split != ""
    for file, value in zip(table.file[used], table.columns[column][used], strict=True):
        if not value:
            raise UserError("a sample without a label", received=file, todo="label it or leave it out")
        if LABEL_SEPARATOR in value:
            labels = value.replace(LABEL_SEPARATOR, ", ")
            what = "a sample with several labels"
            raise UserError(what, received=f"{file} ({labels})", allowed="one label a sample", todo="use --heads=tag()")


def _classes(values: np.ndarray) -> Iterator[str]:
    return (name for value in values for name in value.split(LABEL_SEPARATOR) if name)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _chunks(rows: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
