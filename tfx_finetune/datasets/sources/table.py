"""A CSV or JSON-lines file of pictures, sounds and texts, and their labels."""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.in_memory import (
    FILE_SUFFIXES,
    SPLIT_NAMES,
    InMemorySource,
    group_columns_by_split,
    infer_modality,
)
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
    rows = list(read_rows(place))
    if not rows:
        raise UserError("an empty table", got=path)
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    content, paths = _find_content_columns(place, columns, rows, {"image": image, "audio": audio, "text": text})
    label = _require_column(place, columns, label, _LABEL_NAMES, "label")
    records = [_make_record(place, line, row, content, paths, label, separator) for line, row in rows]
    parts = group_columns_by_split(records)
    if "all" in parts and len(parts) > 1:
        line = next(line for (line, _), record in zip(rows, records, strict=True) if not record["split"])
        raise UserError("some rows have a split and some have none", got=f"{place}, line {line}", expected=SPLITS)
    return InMemorySource(place.stem, (), paths, parts)


def _find_content_columns(
    path: Path, columns: list[str], rows: Sequence[tuple[int, Mapping[str, Any]]], column_options: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The table's column for each modality that it has, and the modalities that are given by paths."""
    names = {modality: _find_column(columns, (modality,)) for modality in FILE_SUFFIXES}
    paths = {"image", "audio"}
    taken = [name for name in column_options.values() if name]
    if general := _find_column([column for column in columns if column not in taken], _PATH_NAMES):
        example = next((str(row[general]) for _, row in rows if row.get(general)), "")
        modality = infer_modality(example) or "image"
        names[modality] = general
        if not column_options[modality]:
            paths.add(modality)
    for modality, name in column_options.items():
        names[modality] = _require_column(path, columns, name, (), modality) if name else names[modality]
    content = {modality: name for modality, name in names.items() if name}
    if not content:
        raise UserError(
            f"{path.name} has no column for the path or the text", got=columns, expected=[*_PATH_NAMES, *FILE_SUFFIXES]
        )
    return content, tuple(modality for modality in content if modality in paths)


def _make_record(
    path: Path,
    line: int,
    row: Mapping[str, Any],
    content: Mapping[str, str],
    paths: tuple[str, ...],
    label: str,
    separator: str,
) -> dict[str, str]:
    where = f"{path}, line {line}"
    values = {modality: str(row.get(name) or "") for modality, name in content.items()}
    values = {modality: value if value.strip() else "" for modality, value in values.items()}
    # Of several, any may be missing; if all are, the survey says so.
    if len(values) == 1 and not all(values.values()):
        raise UserError(f"no value in column {next(iter(content.values()))}", got=where)
    values |= {modality: str(path.parent / values[modality]) for modality in paths if values[modality]}
    split = str(row.get("split") or "").strip().lower()
    if split and split not in SPLIT_NAMES:
        raise UserError("unknown split", got=f"{split} ({where})", expected=SPLITS)
    used = {*content.values(), label, "split"}
    kept = {name: _join_labels(value, separator) for name, value in row.items() if name not in used}
    file = values[paths[0]] if len(values) == len(paths) == 1 else where
    named = values | {"label": _join_labels(row.get(label), separator), "file": file}
    return kept | named | {"split": SPLIT_NAMES.get(split, "")}


def _join_labels(value: Any, separator: str) -> str:
    """One text of a list, or of text with separators: the form that heads understand."""
    text = "" if value is None else str(value)
    parts = value if isinstance(value, list) else text.split(separator) if separator else [text]
    # White space is one blank, since a line break stands between labels.
    return LABEL_SEPARATOR.join(name for part in parts if (name := " ".join(str(part).split())))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, row).

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            is_json = path.suffix.lower() in (".jsonl", ".json", ".ndjson")
            for line, row in _read_json_lines(path, stream) if is_json else _read_csv(path, stream):
                # The names that mean something are understood in any case, as spreadsheets like to have them.
                yield line, {low if (low := name.strip().lower()) in _OTHER_NAMES else name: row[name] for name in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        allowed = "CSV, TSV or JSON lines in UTF-8"
        raise UserError("cannot read the table", got=f"{path} ({error})", expected=allowed) from None


def _read_csv(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    head = stream.readline()
    delimiter = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in ",;\t" if mark in head), ",")
    lines = itertools.chain([head], stream)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for row in reader:
        if None in row or None in row.values():
            what = "a row has another number of cells than the head"
            raise UserError(what, got=f"{path}, line {reader.line_num}")
        yield reader.line_num, row


def _read_json_lines(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError("not a JSON object", got=f"{path}, line {number}", expected="one object a line")
        if row:
            yield number, row


def _require_column(path: Path, columns: list[str], name: str, names: tuple[str, ...], description: str) -> str:
    if name and name not in columns:
        todo = did_you_mean(name, columns)
        raise UserError(f"{path.name} has no such column", got=name, expected=columns, hint=todo)
    found = name or _find_column(columns, names)
    if not found:
        raise UserError(f"{path.name} has no column for the {description}", got=columns, expected=names)
    return found


def _find_column(columns: list[str], names: tuple[str, ...]) -> str:
    """The column of the first of these names, in any case; empty where there is none."""
    return next((column for name in names for column in columns if column.strip().lower() == name), "")
