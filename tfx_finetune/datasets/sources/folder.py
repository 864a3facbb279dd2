"""Source of a folder with one sub-folder per class."""

from pathlib import Path
from typing import Literal

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.data_files import (
    FILE_SUFFIXES,
    SPLIT_NAMES,
    find_files,
    format_path,
    is_hidden,
    resolve_folder,
)
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.datasets.sources.table import table
from tfx_finetune.types.components import SOURCES, Source

LABEL_FILES = ("labels.csv", "labels.tsv", "labels.jsonl")

# Plural names of samples in messages, by modality.
_UNITS = {
    "image": "images",
    "audio": "audio files",
    "text": "text files",
    "": "images, audio files or text files",
}


@SOURCES.register
def folder(path: str, modality: Literal["", "image", "audio", "text"] = "") -> Source:
    """Read images, audio files or texts (.txt) from a folder with one sub-folder per class.

    Files may lie at any depth of the sub-folder of their class. Two other layouts are recognized: split folders
    (`train/`, `val/`, `test/`, each with one sub-folder per class), and a flat folder with a file `labels.csv`,
    `labels.tsv` or `labels.jsonl` (see the source `table`).

    Args:
        path: Folder of the data.
        modality: Modality of the samples. Default: image if there are images, else audio, else text, because folders
            of images often contain notes.

    Raises:
        UserError: If the folder does not exist or has no such files in sub-folders.
    """
    root = resolve_folder(path)
    for name in LABEL_FILES:
        if (root / name).is_file():
            return table(str(root / name))
    files_by_modality = find_files(root)
    column = str(modality) or next((name for name, paths in files_by_modality.items() if paths), "")
    files = files_by_modality.get(column, [])
    unit = _UNITS[column]
    if not files:
        suffixes = [suffix for name in FILE_SUFFIXES if modality in ("", name) for suffix in FILE_SUFFIXES[name]]
        raise UserError(f"The folder has no {unit}", got=path, expected=suffixes)
    relative_parts = [file.relative_to(root).parts for file in files]
    sub_folders = sorted({parts[0] for parts in relative_parts if len(parts) > 1})
    # A class may be called `test`: sub-folders are splits only if all of them are named after splits.
    has_splits = bool(sub_folders) and all(name.lower() in SPLIT_NAMES for name in sub_folders)
    depth = 2 if has_splits else 1
    labeled_folders = {parts[: depth - 1] for parts in relative_parts if len(parts) > depth}
    for parent in [(name,) for name in sub_folders] if has_splits else [()]:
        if parent not in labeled_folders:
            layout = "one sub-folder per class, or a flat folder with a labels.csv of the columns path and label"
            raise UserError(f"The {unit} of the folder have no labels", got=root.joinpath(*parent), expected=layout)
    records = [
        _make_record(column, file, parts[:depth])
        for file, parts in zip(files, relative_parts, strict=True)
        if len(parts) > depth
    ]
    _report_skipped(root, sub_folders, len(files) - len(records), unit)
    return InMemorySource(format_path(root.resolve().name), (), (column,), group_columns_by_split(records))


def _make_record(column: str, file: Path, folders: tuple[str, ...]) -> dict[str, str]:
    split = SPLIT_NAMES[folders[0].lower()] if len(folders) == 2 else ""
    return {"split": split, column: str(file), "label": format_path(folders[-1]), "file": format_path(str(file))}


def _report_skipped(root: Path, sub_folders: list[str], num_skipped: int, unit: str) -> None:
    if num_skipped:
        progress.log(f"left out: {num_skipped} {unit} of {format_path(str(root))} outside of class folders")
    for child in sorted(root.iterdir()):
        if child.is_dir() and not is_hidden(child.name) and child.name not in sub_folders:
            progress.log(f"left out: {format_path(str(child))} has no {unit}")
