"""Which samples are learned from and which are tested, by their language or source."""

import dataclasses
from collections.abc import Container, Iterable, Mapping

import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.types.table import SLICE_COLUMNS, UNLABELED, Table
from tfx_finetune.types.task import Task

_LANGUAGE = "language"


def list_filter_columns(run: Run, existing: Container[str]) -> tuple[str, ...]:
    """The columns by which samples are chosen.

    Args:
        run: The run.
        known: The columns that the data has.

    Raises:
        UserError: The data lacks one.
    """
    flags = {"--train_languages": run.train_languages, "--test_languages": run.test_languages}
    for flag, value in flags.items():
        if value and _LANGUAGE not in existing:
            todo = "give the data one, or leave the option out"
            raise UserError("the data has no column language", got=f"{flag}={value}", hint=todo)
    found = [_LANGUAGE] if any(flags.values()) else []
    column, _, value = run.leave_out.rpartition("=")
    if value and column and column not in existing:
        received = f"--leave_out={run.leave_out}"
        raise UserError("the data has no such column", got=received, hint="say column=value")
    return (*found, *filter(None, [column]))


def filter_samples(table: Table, columns: Iterable[str], run: Run, keep_unlabeled: bool) -> Table:
    """The table, its samples where `--train_languages`, `--test_languages` and `--leave_out` put them.

    Args:
        table: Samples with their split.
        columns: Of the labels.
        run: The run.
        beside: Whether samples of the training part that are not learned from, as their language is none of those to
            learn or they have no label, stand in the split `BESIDE`; else they are left out. None of them belongs to a
            group that is held out.

    Raises:
        UserError: No sample is of a language or source that is named, or none is left to learn from.
    """
    split = table.split.copy()
    learned = _mask_languages(table, "--train_languages", run.train_languages)
    tested = _mask_languages(table, "--test_languages", run.test_languages)
    if keep_unlabeled:
        labelled = np.logical_or.reduce([table.columns[column] != "" for column in columns])
        learned, tested = learned & labelled, tested & labelled
    aside = (split == "train") & ~learned
    split[np.isin(split.astype(str), ["train", "val"]) & ~learned] = ""
    split[(split == "test") & ~tested] = ""
    if keep_unlabeled:
        groups = table.columns["group"]
        held = set(groups[np.isin(table.split.astype(str), ["val", "test"])]) - {""}
        split[aside & ~np.isin(groups.astype(str), sorted(held))] = UNLABELED
    if run.leave_out:
        split[_mask_leave_out(table, run.leave_out) & (table.error == "")] = "test"
    if not (split == "train").any():
        received = f"--train_languages={run.train_languages} --leave_out={run.leave_out}"
        raise UserError("no sample is left to learn from", got=received)
    return dataclasses.replace(table, split=split, warnings=(*table.warnings, *_report_changes(table.split, split)))


def _report_changes(before: np.ndarray, after: np.ndarray) -> Iterable[str]:
    """What a person should know of the choice, said and returned."""
    said = {
        "are not used, as their language is not wanted or they have no label": (before != "") & (after == ""),
        "are learned from without their labels": after == UNLABELED,
        "are tested and not learned from, as they are left out": (before != "test") & (after == "test"),
    }
    for what, marked in said.items():
        if marked.any():
            note = f"{marked.sum()} of {(before != '').sum()} samples {what}"
            progress.log(note)
            yield note


def _mask_languages(table: Table, flag: str, names: str) -> np.ndarray:
    """Marks samples of these languages, (n,); all where none is named."""
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        return np.full(len(table.split), True)
    lanes = table.columns[_LANGUAGE].astype(str)
    known = sorted(set(lanes[table.error == ""]) - {""})
    for name in listed:
        if name not in known:
            todo = did_you_mean(name, known)
            raise UserError(f"{flag} names a language that the data lacks", got=name, expected=known, hint=todo)
    return np.isin(lanes, listed)


def _mask_leave_out(table: Table, leave_out: str) -> np.ndarray:
    """Marks the samples of a language or source, `NAME` or `column=NAME`, (n,)."""
    column, _, name = leave_out.rpartition("=")
    places = [column] if column else [lane for lane in SLICE_COLUMNS if lane in table.columns]
    values = {place: sorted(set(table.columns[place][table.error == ""]) - {""}) for place in places}
    found = [place for place in places if name in values[place]]
    if not found:
        known = [value for several in values.values() for value in several]
        todo = did_you_mean(name, known) or "the data has neither language nor source" * (not known)
        raise UserError("--leave_out names nothing in the data", got=leave_out, expected=known, hint=todo)
    if len(found) > 1:
        allowed = " or ".join(f"{place}={name}" for place in found)
        raise UserError("--leave_out could mean either", got=leave_out, expected=allowed)
    return table.columns[found[0]] == name


def select_head_samples(table: Table, task: Task, head: str, heads_by: str) -> Table:
    """The samples that a head is asked about; of others there is no split, as if they could not be read."""
    if task.heads_by:
        mine = table.columns[task.heads_by] == head
    elif heads_by and head == heads_by:  # which language, where there is one
        mine = table.columns[task.column] != ""
    else:
        return table
    return dataclasses.replace(table, split=np.where(mine, table.split, "").astype(object))


def get_heads_by(tasks: Mapping[str, Task]) -> str:
    """The column that tells which of the heads is asked; empty where all are."""
    return next((task.heads_by for task in tasks.values() if task.heads_by), "")
