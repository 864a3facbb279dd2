"""A folder with a sub-folder for each class."""

from pathlib import Path
from typing import Literal

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import (
    FILE_SUFFIXES,
    SPLIT_NAMES,
    InMemorySource,
    find_files,
    format_path,
    group_columns_by_split,
    is_hidden,
)
from tfx_finetune.datasets.sources.table import table
from tfx_finetune.types.components import SOURCES, Source

LABEL_FILES = ("labels.csv", "labels.tsv", "labels.jsonl")


# What the messages call files of a modality.
_UNITS = {"image": "pictures", "audio": "sounds", "text": "texts", "": "pictures, sounds or texts"}


@SOURCES.register
def folder(path: str, modality: Literal["", "image", "audio", "text"] = "") -> Source:
    """Pictures, sounds or texts (.txt) in a folder: a sub-folder for each class, whatever lies below it.

    Also understood: ready splits (`train/`, `val/`, `test/`, each with a sub-folder for each class), and a flat
    folder with a file `labels.csv`, `labels.tsv` or `labels.jsonl` (see the source `table`).

    Args:
        path: The folder.
        modality: Which files are the samples; by default pictures, where there are none sounds, then texts, since
            notes often lie among pictures.

    Raises:
        UserError: It does not exist, or holds no such files in sub-folders.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("not a folder" if root.exists() else "no such folder", got=path)
    for name in LABEL_FILES:
        if (root / name).is_file():
            return table(str(root / name))
    by_modality = find_files(root)
    column = str(modality) or next((name for name, paths in by_modality.items() if paths), "")
    files = by_modality.get(column, [])
    what = _UNITS[column]
    if not files:
        allowed = [ending for name in FILE_SUFFIXES if modality in ("", name) for ending in FILE_SUFFIXES[name]]
        raise UserError(f"no {what} in this folder", got=path, expected=allowed)
    below = [file.relative_to(root).parts for file in files]
    tops = sorted({parts[0] for parts in below if len(parts) > 1})
    # A class may be called `test`; only where every sub-folder is named after a split are they splits.
    ready = bool(tops) and all(name.lower() in SPLIT_NAMES for name in tops)
    depth = 2 if ready else 1
    labelled = {parts[: depth - 1] for parts in below if len(parts) > depth}
    for holder in [(name,) for name in tops] if ready else [()]:
        if holder not in labelled:
            layout = "a sub-folder for each class, or a flat folder with a labels.csv of path,label"
            place = root.joinpath(*holder)
            raise UserError(f"the {what} of this folder have no labels", got=place, expected=layout)
    records = [
        _make_record(column, file, parts[:depth])
        for file, parts in zip(files, below, strict=True)
        if len(parts) > depth
    ]
    _report_skipped(root, tops, len(files) - len(records), what)
    return InMemorySource(format_path(root.resolve().name), (), (column,), group_columns_by_split(records))


def _make_record(column: str, file: Path, folders: tuple[str, ...]) -> dict[str, str]:
    split = {"split": SPLIT_NAMES[folders[0].lower()]} if len(folders) == 2 else {}
    return split | {column: str(file), "label": format_path(folders[-1]), "file": format_path(str(file))}


def _report_skipped(root: Path, tops: list[str], num_loose: int, unit: str) -> None:
    if num_loose:
        progress.log(f"left out: {num_loose} {unit} of {format_path(str(root))} that lie in no class folder")
    for child in sorted(root.iterdir()):
        if child.is_dir() and not is_hidden(child.name) and child.name not in tops:
            progress.log(f"left out: no {unit} in {format_path(str(child))}")
