"""STATION: what is in a source: which samples can be read, on which side of the split they stand, which classes."""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune import splits
from tfx_finetune.contracts import LABEL_SEPARATOR, SOURCES, SPLITS, Labels, Modality, Source, Task
from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec
from tfx_finetune.modalities.image import reason
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
    """
    decode = tf.function(modality.decode)
    keep = (*columns, "group")

    def look(row: tuple[str, dict[str, Any]]) -> tuple[str, ...]:
        part, sample = row
        digest, why = _examine(sample[modality.column], modality.column in source.paths, decode)
        return (_text(sample["file"]), digest, why, "" if why else part, *(_text(sample.get(c, "")) for c in keep))

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for part in source.sizes:
            yield from ((part, sample) for sample in source.read(part).as_numpy_iterator())

    found: list[tuple[str, ...]] = []
    total = sum(source.sizes.values())
    with ThreadPoolExecutor(hardware.detect().threads) as pool, progress.bar("read data", total) as advance:
        for chunk in _chunks(rows(), 256):
            found += pool.map(look, chunk)
            advance(len(chunk), f"{len(found)} samples of {source.name}")
    file, digest, why, part, *values = (np.array(column, dtype=object) for column in zip(*found, strict=True))
    return Table(file, digest, why, part, dict(zip(keep, values, strict=True)))


def load(plan: Plan, modality: Modality) -> tuple[Source, Table, dict[str, Labels]]:
    """Opens the source, surveys it, splits it, and collects the classes of every head.

    Raises:
        UserError: The data cannot be used as it is; the message says why.
    """
    source = SOURCES.build(plan.source)
    columns = tuple({_column(spec): None for spec in plan.heads.values()})
    _check_columns(source, columns)
    table = survey(source, modality, columns)
    _check_bad(table, plan.run.samples.max_bad)
    table = _split(table, source, plan)
    return source, table, {head: _labels(table, source, _column(spec), spec) for head, spec in plan.heads.items()}


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
    _check_columns(source, columns)
    table = survey(source, modality, columns)
    _check_bad(table, max_bad)
    wanted = (table.split != "") & ((table.split == part) | (part == ""))
    for task in tasks.values():
        if unknown := sorted(set(_classes(table.columns[task.column][wanted])) - set(task.labels.names)):
            raise UserError("a label that the model does not know", received=unknown[0], allowed=task.labels.names)
    return dataclasses.replace(table, split=np.where(wanted, "test", "").astype(object))


def _check_columns(source: Source, columns: tuple[str, ...]) -> None:
    known = source.read(next(iter(source.sizes))).element_spec
    if missing := [column for column in columns if column not in known]:
        todo = "name one of them with column= of the head"
        raise UserError("the data has no such column", received=missing[0], allowed=sorted(known), todo=todo)


def _column(spec: Spec) -> str:
    return str(spec.kwargs.get("column", "label"))


def _examine(content: Any, is_path: bool, decode: Any) -> tuple[str, str]:
    try:
        content = Path(content.decode()).read_bytes() if is_path else content
        digest = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
        decode(tf.constant(content))
    except OSError as error:
        return "", error.strerror or str(error)
    except tf.errors.OpError as error:
        return "", reason(error)
    return digest, ""


def _check_bad(table: Table, max_bad: float) -> None:
    bad = table.bad
    if len(bad) > max_bad * len(table.file) or len(bad) == len(table.file):
        shown = "; ".join(f"{file}: {why}" for file, why in bad[:3]) + (", ..." if len(bad) > 3 else "")
        what = f"{len(bad)} of {len(table.file)} samples cannot be read"
        todo = "mend or remove them, or raise --samples.max_bad"
        raise UserError(what, received=shown, allowed=f"a share of {max_bad}", todo=todo)


def _split(table: Table, source: Source, plan: Plan) -> Table:
    """Carves the splits that the source lacks out of its training part."""
    samples = plan.run.samples
    part = "all" if "all" in source.sizes else "train"
    if part not in source.sizes:
        raise UserError("the data has no training part", received=list(source.sizes))
    wanted = {"val": samples.val, "test": samples.test}
    shares = {name: share for name, share in wanted.items() if name not in source.sizes and share > 0}
    rows = np.flatnonzero(table.split == part)
    digest, label, group = (
        column[rows] for column in (table.digest, table.columns[_first(plan)], table.columns["group"])
    )
    split = table.split.copy()
    split[rows] = splits.assign(digest, label, group, shares, plan.run.seed)
    return dataclasses.replace(table, split=split, notes=tuple(_notes(table, split)))


def _first(plan: Plan) -> str:
    return _column(next(iter(plan.heads.values())))


def _notes(table: Table, split: np.ndarray) -> Iterator[str]:
    used = split != ""
    copies = Counter(table.digest[used])
    if extra := sum(copies.values()) - len(copies):
        yield f"{extra} samples are exact copies of another one; copies are kept on one side of a split made here"
    sides: dict[str, set[str]] = {}
    for digest, side in zip(table.digest[used], split[used], strict=True):
        sides.setdefault(digest, set()).add(side)
    if leaks := sum(len(found) > 1 for found in sides.values()):
        yield f"{leaks} pictures stand in more than one of the splits that the data came with"


def _labels(table: Table, source: Source, column: str, spec: Spec) -> Labels:
    values = table.columns[column]
    per_split = {side: Counter(_classes(values[table.split == side])) for side in SPLITS}
    names = source.labels if column == "label" and source.labels else tuple(sorted(per_split["train"]))
    if unseen := sorted((set(per_split["val"]) | set(per_split["test"])) - set(names)):
        todo = "give it training samples, or leave it out"
        raise UserError("a class of the held-out data never occurs in training", received=unseen[0], todo=todo)
    if spec.name == "classify" and any(LABEL_SEPARATOR in value for value in values[table.split != ""]):
        raise UserError("samples with several labels", allowed="one label a sample", todo="use --heads=tag()")
    if spec.name == "classify" and len(names) < 2:
        raise UserError("one class only", received=", ".join(names), todo="classification wants at least two")
    everywhere = sum(per_split.values(), Counter())
    if alone := [name for name in names if everywhere[name] == 1]:
        todo = "add samples to it or leave it out"
        raise UserError(
            "a class with one sample, which cannot be both learned and tested", received=alone[0], todo=todo
        )
    return Labels(names, tuple(per_split["train"][name] for name in names), table.size("train"))


def _classes(values: np.ndarray) -> Iterator[str]:
    return (name for value in values for name in value.split(LABEL_SEPARATOR) if name)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _chunks(rows: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
