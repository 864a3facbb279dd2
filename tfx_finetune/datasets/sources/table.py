"""Source of a CSV or JSON-lines table of images, audio files and texts with their labels."""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.datasets.sources.data_files import FILE_SUFFIXES, SPLIT_NAMES, infer_modality
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.types.components import LABEL_SEPARATOR, SOURCES, SPLITS, Source

# A long text is one sample, which its modality accepts or rejects; by default, Python rejects the whole table.
csv.field_size_limit(2**31 - 1)

_PATH_NAMES = ("path", "file", "filename")
_LABEL_NAMES = ("label", "labels", "class")
_OTHER_NAMES = ("split", "group", "source", "language")


@SOURCES.register
def table(path: str, image: str = "", label: str = "", separator: str = ";", audio: str = "", text: str = "") -> Source:
    """Read a table of samples: CSV (with commas, semicolons or tabs), TSV or JSON lines.

    Columns:

    - content: path of an image, path of an audio file, the text itself, or several of these. An empty cell is a missing
      value. The survey leaves out rows without any content.
    - label: one label, or several joined by `separator`; in JSON also a list.
    - split: train, val or test. Optional.
    - group: samples of a group stay in one split. Optional.
    - source, language: optional.

    Paths are relative to the table. Other columns are kept, so that a head may use one as its `column`.

    Args:
        path: Table file.
        image: Column of image paths. Default: the first of path, file, filename, image.
        label: Column of labels. Default: the first of label, labels, class.
        separator: Separator of several labels of a sample; empty if labels may contain it. Default `;`.
        audio: Column of audio paths. Default: audio; or path, file, filename if its values have the suffix of audio
            files.
        text: Column of texts. Default: text; or path, file, filename if its values end with .txt.

    Raises:
        UserError: If the table cannot be read, or if a column or a value is missing.
    """
    file = Path(path).expanduser()
    rows = list(read_rows(file))
    if not rows:
        raise UserError("The table is empty", got=path)
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    content, paths = _find_content_columns(file, columns, rows, {"image": image, "audio": audio, "text": text})
    label = _require_column(file, columns, label, _LABEL_NAMES, "label")
    layout = _Layout(file, content, paths, label, separator)
    records = [_make_record(layout, line, row) for line, row in rows]
    parts = group_columns_by_split(records)
    if "all" in parts and len(parts) > 1:
        line = next(line for (line, _), record in zip(rows, records, strict=True) if not record["split"])
        raise UserError("A row has no split, but other rows have one", got=f"{file}, line {line}", expected=SPLITS)
    return InMemorySource(file.stem, (), paths, parts)


class _Layout(NamedTuple):
    """Meaning of the columns of a table.

    Attributes:
        file: Table file.
        content: Column of each modality that the table has.
        paths: Modalities whose column holds paths.
        label: Column of the labels.
        separator: Separator of several labels.
    """

    file: Path
    content: Mapping[str, str]
    paths: tuple[str, ...]
    label: str
    separator: str


def _find_content_columns(
    file: Path, columns: list[str], rows: Sequence[tuple[int, Mapping[str, Any]]], column_options: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the column of each modality that the table has, and the modalities whose columns hold paths."""
    names = {modality: _find_column(columns, (modality,)) for modality in FILE_SUFFIXES}
    path_modalities = {"image", "audio"}
    chosen_columns = [name for name in column_options.values() if name]
    if path_column := _find_column([column for column in columns if column not in chosen_columns], _PATH_NAMES):
        example = next((str(row[path_column]) for _, row in rows if row.get(path_column)), "")
        modality = infer_modality(example) or "image"
        names[modality] = path_column
        if not column_options[modality]:
            path_modalities.add(modality)
    for modality, name in column_options.items():
        names[modality] = _require_column(file, columns, name, (), modality) if name else names[modality]
    content = {modality: name for modality, name in names.items() if name}
    if not content:
        expected = [*_PATH_NAMES, *FILE_SUFFIXES]
        raise UserError(f"{file.name} has no column of paths or texts", got=", ".join(columns), expected=expected)
    return content, tuple(modality for modality in content if modality in path_modalities)


def _make_record(layout: _Layout, line: int, row: Mapping[str, Any]) -> dict[str, str]:
    location = f"{layout.file}, line {line}"
    values = {modality: str(row.get(name) or "") for modality, name in layout.content.items()}
    values = {modality: value if value.strip() else "" for modality, value in values.items()}
    # With several modalities, any may be missing; the survey reports samples without any.
    if len(values) == 1 and not all(values.values()):
        raise UserError(f"The column {next(iter(layout.content.values()))} has no value", got=location)
    values |= {modality: str(layout.file.parent / values[modality]) for modality in layout.paths if values[modality]}
    split = str(row.get("split") or "").strip().lower()
    if split and split not in SPLIT_NAMES:
        raise UserError("Unknown split", got=f"{split} ({location})", expected=SPLITS)
    used_columns = {*layout.content.values(), layout.label, "split"}
    others = {name: _join_labels(value, layout.separator) for name, value in row.items() if name not in used_columns}
    file = values[layout.paths[0]] if len(values) == len(layout.paths) == 1 else location
    label = _join_labels(row.get(layout.label), layout.separator)
    return others | values | {"label": label, "file": file, "split": SPLIT_NAMES.get(split, "")}


def _join_labels(value: Any, separator: str) -> str:
    """Join the labels of a list, or of a text with separators, by `LABEL_SEPARATOR`."""
    text = "" if value is None else str(value)
    labels = value if isinstance(value, list) else text.split(separator) if separator else [text]
    # Every run of white space becomes one space, because LABEL_SEPARATOR is a line break.
    return LABEL_SEPARATOR.join(name for label in labels if (name := " ".join(str(label).split())))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a CSV, TSV or JSON-lines file.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            is_json = path.suffix.lower() in (".jsonl", ".json", ".ndjson")
            for line, row in _read_json_lines(path, stream) if is_json else _read_csv(path, stream):
                # Spreadsheets write names such as Split or GROUP.
                yield line, {low if (low := name.strip().lower()) in _OTHER_NAMES else name: row[name] for name in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        expected = "CSV, TSV or JSON lines in UTF-8"
        raise UserError("Cannot read the table", got=f"{path} ({error})", expected=expected) from None


def _read_csv(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    header = stream.readline()
    delimiter = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in ",;\t" if mark in header), ",")
    lines = itertools.chain([header], stream)
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for row in reader:
        if None in row or None in row.values():
            location = f"{path}, line {reader.line_num}"
            raise UserError("The number of cells of a row differs from the header", got=location)
        yield reader.line_num, row


def _read_json_lines(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError("Not a JSON object", got=f"{path}, line {number}", expected="one JSON object per line")
        if row:
            yield number, row


def _require_column(file: Path, columns: list[str], name: str, names: tuple[str, ...], description: str) -> str:
    if name and name not in columns:
        hint = did_you_mean(name, columns)
        raise UserError(f"{file.name} has no such column", got=name, expected=columns, hint=hint)
    column = name or _find_column(columns, names)
    if not column:
        raise UserError(f"{file.name} has no column of the {description}", got=", ".join(columns), expected=names)
    return column


def _find_column(columns: list[str], names: tuple[str, ...]) -> str:
    """Return the first column that has one of the names in any case; empty if there is none."""
    return next((column for name in names for column in columns if column.strip().lower() == name), "")
