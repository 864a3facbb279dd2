"""A CSV or JSON-lines file of pictures, sounds and texts, and their labels."""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import ENDINGS, SPLIT_NAMES, Rows, by_split, modality_of
from tfx_finetune.types.components import LABEL_SEPARATOR, SOURCES, SPLITS, Source

# A long text is a sample like others, which its modality takes or refuses; by itself Python refuses the whole table.
csv.field_size_limit(2**31 - 1)

_PATH_NAMES = ("path", "file", "filename")
_LABEL_NAMES = ("label", "labels", "class")
_OTHER_NAMES = ("split", "group", "source", "language")


@SOURCES.register
def table(path: str, image: str = "", label: str = "", separator: str = ";", audio: str = "", text: str = "") -> Source:
    """A table of samples: CSV (also with semicolons or tabs, as spreadsheets write it), TSV or JSON lines.

    Columns: what the sample consists of, which is the path of a picture, the path of a sound, the text itself, or
    several of these; its label (several joined by `separator`, or a list in JSON), and, where they are there, `split`
    (train, val, test), `group` (samples of a group stay together), `source` and `language`. Paths are relative to
    the table. All further columns are kept, so that a head may name one as its `column`.

    A cell is empty where the sample has no picture, sound or text. The survey leaves out and lists a row in which
    all are empty.

    Args:
        path: The table.
        image: Column with the path of a picture; by default the first of path, file, filename, image.
        label: Column with the label; by default the first of label, labels, class.
        separator: Between several labels of one sample; empty where a label may hold it.
        audio: Column with the path of a sound; by default `audio`, or path, file, filename where those end so.
        text: Column with the text; by default `text`, or path, file, filename where those end in .txt.

    Raises:
        UserError: The table cannot be read, or lacks a column or a value.
    """
    place = Path(path).expanduser()
    rows = list(rows_of(place))
    if not rows:
        raise UserError("an empty table", received=path)
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    content, paths = _content(place, columns, rows, {"image": image, "audio": audio, "text": text})
    label = _column(place, columns, label, _LABEL_NAMES, "label")
    records = [_record(place, line, row, content, paths, label, separator) for line, row in rows]
    parts = by_split(records)
    if "all" in parts and len(parts) > 1:
        line = next(line for (line, _), record in zip(rows, records, strict=True) if not record["split"])
        raise UserError("some rows have a split and some have none", received=f"{place}, line {line}", allowed=SPLITS)
    return Rows(place.stem, (), paths, parts)


def _content(
    place: Path, columns: list[str], rows: Sequence[tuple[int, Mapping[str, Any]]], said: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The table's column for each modality that it has, and the modalities that are given by paths."""
    names = {modality: _found(columns, (modality,)) for modality in ENDINGS}
    paths = {"image", "audio"}
    taken = [name for name in said.values() if name]
    if general := _found([column for column in columns if column not in taken], _PATH_NAMES):
        example = next((str(row[general]) for _, row in rows if row.get(general)), "")
        modality = modality_of(example) or "image"
        names[modality] = general
        if not said[modality]:
            paths.add(modality)
    for modality, name in said.items():
        names[modality] = _column(place, columns, name, (), modality) if name else names[modality]
    content = {modality: name for modality, name in names.items() if name}
    if not content:
        raise UserError(
            f"{place.name} has no column for the path or the text", received=columns, allowed=[*_PATH_NAMES, *ENDINGS]
        )
    return content, tuple(modality for modality in content if modality in paths)


def _record(
    place: Path,
    line: int,
    row: Mapping[str, Any],
    content: Mapping[str, str],
    paths: tuple[str, ...],
    label: str,
    separator: str,
) -> dict[str, str]:
    where = f"{place}, line {line}"
    values = {modality: str(row.get(name) or "") for modality, name in content.items()}
    values = {modality: value if value.strip() else "" for modality, value in values.items()}
    # Of several, any may be missing; if all are, the survey says so.
    if len(values) == 1 and not all(values.values()):
        raise UserError(f"no value in column {next(iter(content.values()))}", received=where)
    values |= {modality: str(place.parent / values[modality]) for modality in paths if values[modality]}
    split = str(row.get("split") or "").strip().lower()
    if split and split not in SPLIT_NAMES:
        raise UserError("unknown split", received=f"{split} ({where})", allowed=SPLITS)
    used = {*content.values(), label, "split"}
    kept = {name: _joined(value, separator) for name, value in row.items() if name not in used}
    file = values[paths[0]] if len(values) == len(paths) == 1 else where
    named = values | {"label": _joined(row.get(label), separator), "file": file}
    return kept | named | {"split": SPLIT_NAMES.get(split, "")}


def _joined(value: Any, separator: str) -> str:
    """One text of a list, or of text with separators: the form that heads understand."""
    text = "" if value is None else str(value)
    parts = value if isinstance(value, list) else text.split(separator) if separator else [text]
    # White space is one blank, since a line break stands between labels.
    return LABEL_SEPARATOR.join(name for part in parts if (name := " ".join(str(part).split())))


def rows_of(place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, row).

    Raises:
        UserError: It cannot be read.
    """
    try:
        with place.open(newline="", encoding="utf-8-sig") as stream:
            is_json = place.suffix.lower() in (".jsonl", ".json", ".ndjson")
            for line, row in _objects(place, stream) if is_json else _cells(place, stream):
                # The names that mean something are understood in any case, as spreadsheets like to have them.
                yield line, {low if (low := name.strip().lower()) in _OTHER_NAMES else name: row[name] for name in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        allowed = "CSV, TSV or JSON lines in UTF-8"
        raise UserError("cannot read the table", received=f"{place} ({error})", allowed=allowed) from None


def _cells(place: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    head = stream.readline()
    delimiter = "\t" if place.suffix.lower() == ".tsv" else next((mark for mark in ",;\t" if mark in head), ",")
    lines = itertools.chain([head], stream)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for row in reader:
        if None in row or None in row.values():
            what = "a row has another number of cells than the head"
            raise UserError(what, received=f"{place}, line {reader.line_num}")
        yield reader.line_num, row


def _objects(place: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError("not a JSON object", received=f"{place}, line {number}", allowed="one object a line")
        if row:
            yield number, row


def _column(place: Path, columns: list[str], wanted: str, names: tuple[str, ...], what: str) -> str:
    if wanted and wanted not in columns:
        todo = did_you_mean(wanted, columns)
        raise UserError(f"{place.name} has no such column", received=wanted, allowed=columns, todo=todo)
    found = wanted or _found(columns, names)
    if not found:
        raise UserError(f"{place.name} has no column for the {what}", received=columns, allowed=names)
    return found


def _found(columns: list[str], names: tuple[str, ...]) -> str:
    """The column of the first of these names, in any case; empty where there is none."""
    return next((column for name in names for column in columns if column.strip().lower() == name), "")
