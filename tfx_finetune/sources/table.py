"""A CSV or JSON-lines file that names pictures and their labels."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfx_finetune.contracts import LABEL_SEPARATOR, SOURCES, SPLITS, Source
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.sources.rows import Rows, by_split

_PATH_NAMES = ("path", "file", "filename", "image")
_LABEL_NAMES = ("label", "labels", "class")


@SOURCES.register
def table(path: str, image: str = "", label: str = "", separator: str = ";") -> Source:
    """A table of pictures: CSV, TSV or JSON lines.

    Columns: the picture's path (relative to the table), its label (several joined by `separator`, or a list in
    JSON), and, where they are there, `split` (train, val, test), `group` (samples of a group stay together),
    `source` and `language`. All further columns are kept, so that a head may name one as its `column`.

    Args:
        path: The table.
        image: Column with the path; by default the first of path, file, filename, image.
        label: Column with the label; by default the first of label, labels, class.
        separator: Between several labels of one sample.

    Raises:
        UserError: The table cannot be read, or lacks a column or a value.
    """
    place = Path(path).expanduser()
    rows = list(_rows(place))
    if not rows:
        raise UserError("an empty table", received=path)
    columns = list(rows[0][1])
    image = _column(place, columns, image, _PATH_NAMES, "path")
    label = _column(place, columns, label, _LABEL_NAMES, "label")
    records = [_record(place, line, row, image, label, separator) for line, row in rows]
    parts = by_split(records)
    if "all" in parts and len(parts) > 1:
        line = next(line for (line, _), record in zip(rows, records, strict=True) if not record["split"])
        raise UserError("some rows have a split and some have none", received=f"{place}, line {line}", allowed=SPLITS)
    return Rows(place.stem, (), ("image",), parts)


def _record(place: Path, line: int, row: Mapping[str, Any], image: str, label: str, separator: str) -> dict[str, str]:
    where = f"{place}, line {line}"
    labels = row.get(label)
    names = labels if isinstance(labels, list) else str(labels if labels is not None else "").split(separator)
    if not row.get(image):
        raise UserError(f"no value in column {image}", received=where)
    split = str(row.get("split") or "").lower()
    if split not in ("", *SPLITS):
        raise UserError("unknown split", received=f"{split} ({where})", allowed=SPLITS)
    kept = {str(k): "" if v is None else str(v) for k, v in row.items() if k not in (image, label, "split")}
    path = str(place.parent / str(row[image]))
    joined = LABEL_SEPARATOR.join(str(name).strip() for name in names if str(name).strip())
    return kept | {"image": path, "label": joined, "file": path, "split": split}


def _rows(place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, row)."""
    try:
        with place.open(newline="", encoding="utf-8-sig") as stream:
            if place.suffix.lower() in (".jsonl", ".json", ".ndjson"):
                yield from ((n, _object(place, n, line)) for n, line in enumerate(stream, 1) if line.strip())
            else:
                reader = csv.DictReader(stream, delimiter="\t" if place.suffix.lower() == ".tsv" else ",", strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        what = "a row has another number of cells than the head"
                        raise UserError(what, received=f"{place}, line {reader.line_num}")
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        allowed = "CSV, TSV or JSON lines in UTF-8"
        raise UserError("cannot read the table", received=f"{place} ({error})", allowed=allowed) from None


def _object(place: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError("not a JSON object", received=f"{place}, line {number}", allowed="one object a line")
    return row


def _column(place: Path, columns: list[str], wanted: str, names: tuple[str, ...], what: str) -> str:
    if wanted and wanted not in columns:
        todo = did_you_mean(wanted, columns)
        raise UserError(f"{place.name} has no such column", received=wanted, allowed=columns, todo=todo)
    found = wanted or next((name for name in names if name in columns), "")
    if not found:
        raise UserError(f"{place.name} has no column for the {what}", received=columns, allowed=names)
    return found
