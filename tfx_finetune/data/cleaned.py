"""Write a copy of a data set without its issues, as a table for training."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, progress
from tfx_finetune.data.duplicates import group_equal, group_pairs
from tfx_finetune.data.issues import DataIssue
from tfx_finetune.datasets.pipeline import encode_content
from tfx_finetune.deploy.golden import guess_extension
from tfx_finetune.ops.tf_data import as_numpy
from tfx_finetune.types.components import LABEL_SEPARATOR, Source
from tfx_finetune.types.table import Table

_DROPPED_KINDS = ("unreadable", "unlabeled", "leakage", "label_conflict", "duplicate")


def select_rows_to_drop(issues: Iterable[DataIssue], table: Table) -> np.ndarray:
    """Return a bool mask (n,) of the samples that a cleaned table omits.

    Unreadable samples, unlabeled samples, duplicates, leakage and label conflicts are dropped. Label errors, outliers
    and near-duplicates within a split need a person's decision and stay.

    Args:
        issues: Issues of the data set.
        table: Table of all samples.
    """
    drop_mask = np.zeros(len(table.file), bool)
    for issue in issues:
        if issue.kind in _DROPPED_KINDS:
            drop_mask[issue.row] = True
    return drop_mask


def assign_groups(table: Table, issues: Iterable[DataIssue]) -> np.ndarray:
    """Return the group of each sample, object array (n,): its group in the data, merged with its near-duplicates'.

    Args:
        table: Table of all samples.
        issues: Issues of the data set; samples of one issue get one group.

    Returns:
        The group names; empty for samples without a group.
    """
    groups = table.columns["group"]
    pairs = [(issue.row, issue.other_row) for issue in issues if issue.other_row >= 0]
    pairs += [(rows[0], other_row) for rows in group_equal(groups) for other_row in rows[1:]]
    group_ids = group_pairs(len(groups), pairs)
    merged_groups = np.array(groups, object)
    for rows in group_equal([str(group_id) for group_id in group_ids]):
        merged_groups[rows] = next(filter(None, groups[rows]), f"like {table.file[rows[0]]}")
    return merged_groups


def write_cleaned_table(path: Path, source: Source, keep_mask: np.ndarray, sample_groups: np.ndarray) -> None:
    """Write samples of a data set as a CSV table for `--data`.

    The table contains paths for samples that are files, and the text itself for texts. Other samples (pixels, encoded
    files inside an archive) are written as files to a folder with the name of the table without its extension.
    Samples whose file name or label is not UTF-8 are skipped.

    Args:
        path: Path of the CSV file.
        source: Data set.
        keep_mask: bool array (n,). True for samples to write.
        sample_groups: object array (n,). Group of each sample; empty for none.
    """
    rows, num_skipped, index = [], 0, 0
    folder = path.with_suffix("")
    with progress.bar("write", int(keep_mask.sum())) as advance:
        for split in source.sizes:
            for sample in as_numpy(source.read(split)):
                if keep_mask[index]:
                    row = _make_row(sample, source, folder, index)
                    row |= {"group": str(sample_groups[index])} | ({} if split == "all" else {"split": split})
                    if all(_is_utf8(value) for value in row.values()):
                        rows.append(row)
                    else:
                        num_skipped += 1
                    advance(1)
                index += 1
    names = [name for name in rows[0] if name in ("label", "split") or any(row[name] for row in rows)] if rows else []
    with files.write_atomically(path) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if num_skipped:
        progress.log(f"{path.name} omits {num_skipped} samples whose names are not UTF-8")


def _make_row(sample: Mapping[str, Any], source: Source, folder: Path, index: int) -> dict[str, str]:
    """Return the table row of a sample; write its content as a file if it is none."""
    row = {}
    for name, value in sample.items():
        if name in source.paths:
            # A table names the column of paths to text files `path`, because `text` is the text itself.
            row["path" if name == "text" else name] = str(Path(_to_text(value)).absolute()) if value else ""
        elif name in ("image", "audio") and not (isinstance(value, bytes) and not value):
            row[name] = str(_write_content(value, folder, index))
        elif name not in ("file", "path", "filename", "split", "group"):
            text = _to_text(value)
            row[name] = text if name == "text" else text.replace(LABEL_SEPARATOR, ";")
    return row


def _write_content(content: Any, folder: Path, index: int) -> Path:
    """Write pixels or an encoded file to the folder and return the path."""
    encoded = encode_content(tf.constant(content))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.absolute() / f"{index:07}.{guess_extension(encoded)}"
    path.write_bytes(encoded)
    return path


def _to_text(value: Any) -> str:
    """Return a value as text; bytes that are not UTF-8 become lone surrogates."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _is_utf8(text: str) -> bool:
    """Return True if a text has no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
