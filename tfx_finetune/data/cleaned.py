"""A data set without what was found wrong with it, as a table that can be trained on."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, progress
from tfx_finetune.data.duplicates import group_equal, group_pairs
from tfx_finetune.data.findings import Finding
from tfx_finetune.datasets.pipeline import encode_content
from tfx_finetune.deploy.golden import guess_extension
from tfx_finetune.ops.tf_data import as_numpy
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.table import Table


def select_rows_to_drop(findings: Iterable[Finding], table: Table) -> np.ndarray:
    """Which samples a cleaned table lacks, (n,): unreadable and unlabelled ones, copies, leaks, and contradictions.

    What needs a person's eye stays: labels that are perhaps wrong, outliers, near copies on one side of the split.
    """
    out = np.zeros(len(table.file), bool)
    for found in findings:
        if found.kind in ("unreadable", "unlabelled", "leak", "conflict", "copy"):
            out[found.row] = True
    return out


def assign_groups(table: Table, findings: Iterable[Finding]) -> np.ndarray:
    """Group of each sample, (n,): that of the data, joined with those of its near copies; empty for none."""
    known = table.columns["group"]
    pairs = [(found.row, found.other_row) for found in findings if found.other_row >= 0]
    pairs += [(members[0], other) for members in group_equal(known) for other in members[1:]]
    number = group_pairs(len(known), pairs)
    names = np.array(known, object)
    for members in group_equal([str(value) for value in number]):
        names[members] = next(filter(None, known[members]), f"like {table.file[members[0]]}")
    return names


def write_cleaned_table(path: Path, source: Source, keep_mask: np.ndarray, sample_groups: np.ndarray) -> None:
    """Writes the samples that are kept as a table that `--data` takes; names that are not UTF-8 it cannot hold.

    Content that lies in files is named by its path, texts are written out, all else (pixels, encoded content inside
    another file) becomes a file in the folder `path` without its ending.

    Args:
        path: The table, a CSV file.
        source: The data, which stays as it is.
        keep: Which samples, (n,).
        group: Group of each, (n,).
    """
    rows, lost, at = [], 0, 0
    folder = path.with_suffix("")
    with progress.bar("write", int(keep_mask.sum())) as advance:
        for part in source.sizes:
            for sample in as_numpy(source.read(part)):
                if keep_mask[at]:
                    row = _make_row(sample, source, folder, at)
                    row |= {"group": str(sample_groups[at])} | ({} if part == "all" else {"split": part})
                    if all(_is_utf8(value) for value in row.values()):
                        rows.append(row)
                    else:
                        lost += 1
                    advance(1)
                at += 1
    names = [name for name in rows[0] if name in ("label", "split") or any(row[name] for row in rows)] if rows else []
    with files.write_atomically(path) as draft, draft.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if lost:
        progress.log(f"{lost} samples are not in {path.name}: their names are not UTF-8")


def _make_row(sample: Mapping[str, Any], source: Source, folder: Path, index: int) -> dict[str, str]:
    row = {}
    for name, value in sample.items():
        if name in source.paths:
            # A column of paths of texts is known by this name alone.
            row["path" if name == "text" else name] = str(Path(_to_text(value)).absolute()) if value else ""
        elif name in ("image", "audio") and not (isinstance(value, bytes) and not value):
            row[name] = str(_write_content(value, folder, index))
        elif name not in ("file", "path", "filename", "split", "group"):
            text = _to_text(value)
            row[name] = text if name == "text" else text.replace(LABEL_SEPARATOR, ";")
    return row


def _write_content(content: Any, folder: Path, index: int) -> Path:
    """Content that is in no file of its own, as one."""
    raw = encode_content(tf.constant(content))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.absolute() / f"{index:07}.{guess_extension(raw)}"
    path.write_bytes(raw)
    return path


def _to_text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
