"""Filters of training and test samples by language, source or head."""

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.options import split_names
from tfx_finetune.types.table import SLICE_COLUMNS, UNLABELED, Table
from tfx_finetune.types.task import Task

_LANGUAGE = "language"


def list_filter_columns(run: Run, existing_columns: Container[str]) -> tuple[str, ...]:
    """Return the columns that the filters of a run read.

    Args:
        run: Options of the run.
        existing_columns: Columns of the data.

    Raises:
        UserError: If the data lacks a column.
    """
    flags = {"--train_languages": run.train_languages, "--test_languages": run.test_languages}
    for flag, value in flags.items():
        if value and _LANGUAGE not in existing_columns:
            hint = "add the column to the data, or leave the option out"
            raise UserError("The data has no column language", got=f"{flag}={value}", hint=hint)
    language_columns = [_LANGUAGE] if any(flags.values()) else []
    column, _, value = run.leave_out.rpartition("=")
    if value and column and column not in existing_columns:
        got = f"--leave_out={run.leave_out}"
        raise UserError("The data has no such column", got=got, hint="write column=value with a column of the data")
    return (*language_columns, *filter(None, [column]))


def filter_samples(table: Table, label_columns: Iterable[str], run: Run, keep_unlabeled: bool) -> Table:
    """Apply `--train_languages`, `--test_languages` and `--leave_out` to the splits of a table.

    Args:
        table: Samples with their splits.
        label_columns: Columns of the labels.
        run: Options of the run.
        keep_unlabeled: If True, training samples of other languages or without labels get the split `unlabeled`,
            unless their group is held out. If False, they are left out.

    Raises:
        UserError: If a language or source does not exist, or no training sample is left.
    """
    split = table.split.copy()
    is_train_language = _mask_languages(table, "--train_languages", run.train_languages)
    is_test_language = _mask_languages(table, "--test_languages", run.test_languages)
    if keep_unlabeled:
        is_labeled = np.logical_or.reduce([table.columns[column] != "" for column in label_columns])
        is_train_language, is_test_language = is_train_language & is_labeled, is_test_language & is_labeled
    is_excluded = (split == "train") & ~is_train_language
    split[np.isin(split.astype(str), ["train", "val"]) & ~is_train_language] = ""
    split[(split == "test") & ~is_test_language] = ""
    if keep_unlabeled:
        groups = table.columns["group"]
        held_out_groups = set(groups[np.isin(table.split.astype(str), ["val", "test"])]) - {""}
        split[is_excluded & ~np.isin(groups.astype(str), sorted(held_out_groups))] = UNLABELED
    if run.leave_out:
        split[_mask_leave_out(table, run.leave_out) & (table.error == "")] = "test"
    if not (split == "train").any():
        got = f"--train_languages={run.train_languages} --leave_out={run.leave_out}"
        raise UserError("The filters leave no training sample", got=got)
    return dataclasses.replace(table, split=split, warnings=(*table.warnings, *_report_changes(table.split, split)))


def _report_changes(before: np.ndarray, after: np.ndarray) -> Iterator[str]:
    """Log and yield the numbers of samples whose split has changed."""
    changes = {
        "are not used, because of their language or because they have no label": (before != "") & (after == ""),
        "are used without their labels": after == UNLABELED,
        "are moved to the test split by --leave_out": (before != "test") & (after == "test"),
    }
    for description, mask in changes.items():
        if mask.any():
            line = f"{mask.sum()} of {(before != '').sum()} samples {description}"
            progress.log(line)
            yield line


def _mask_languages(table: Table, flag: str, languages: str) -> np.ndarray:
    """Return a mask (n,) of the samples of comma-separated languages; all samples if there are none."""
    names = split_names(languages)
    if not names:
        return np.full(len(table.split), True)
    values = table.columns[_LANGUAGE].astype(str)
    existing = sorted(set(values[table.error == ""]) - {""})
    for name in names:
        if name not in existing:
            hint = did_you_mean(name, existing)
            raise UserError(f"{flag} names a language that the data lacks", got=name, expected=existing, hint=hint)
    return np.isin(values, names)


def _mask_leave_out(table: Table, leave_out: str) -> np.ndarray:
    """Return a mask (n,) of the samples of `VALUE` or `column=VALUE`."""
    column, _, value = leave_out.rpartition("=")
    columns = [column] if column else [name for name in SLICE_COLUMNS if name in table.columns]
    existing = {name: sorted(set(table.columns[name][table.error == ""]) - {""}) for name in columns}
    matches = [name for name in columns if value in existing[name]]
    if not matches:
        values = [value for column_values in existing.values() for value in column_values]
        hint = did_you_mean(value, values)
        if not values:
            hint = "add a column language or source to the data"
        raise UserError("--leave_out names no value of the data", got=leave_out, expected=values, hint=hint)
    if len(matches) > 1:
        expected = " or ".join(f"{name}={value}" for name in matches)
        raise UserError("--leave_out is a value of several columns", got=leave_out, expected=expected)
    return table.columns[matches[0]] == value


def select_head_samples(table: Table, task: Task, head: str, heads_by: str) -> Table:
    """Return the table with an empty split for samples that a head does not train on.

    Args:
        table: Samples with their splits.
        task: The head.
        head: Name of the head.
        heads_by: Column that selects the head of a sample; empty if all heads train on all samples.
    """
    if task.heads_by:
        mask = table.columns[task.heads_by] == head
    elif heads_by and head == heads_by:  # the head that predicts the column itself, such as the language
        mask = table.columns[task.column] != ""
    else:
        return table
    return dataclasses.replace(table, split=np.where(mask, table.split, "").astype(object))


def get_heads_by(tasks: Mapping[str, Task]) -> str:
    """Return the column that selects the head of a sample; empty if all heads predict for all samples."""
    return next((task.heads_by for task in tasks.values() if task.heads_by), "")
