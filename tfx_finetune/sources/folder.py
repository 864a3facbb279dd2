"""A folder with a sub-folder for each class."""

from pathlib import Path

from tfx_finetune.contracts import SOURCES, Source
from tfx_finetune.core.errors import UserError
from tfx_finetune.sources.rows import Rows, by_split, pictures
from tfx_finetune.sources.table import table

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABEL_FILES = ("labels.csv", "labels.tsv", "labels.jsonl")


@SOURCES.register
def folder(path: str) -> Source:
    """Pictures in a folder: a sub-folder for each class, whatever lies below it.

    Also understood: ready splits (`train/`, `val/`, `test/`, each with a sub-folder for each class), and a flat
    folder of pictures with a file `labels.csv`, `labels.tsv` or `labels.jsonl` (see the source `table`).

    Args:
        path: The folder.

    Raises:
        UserError: It does not exist, or holds no pictures in sub-folders.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("no such folder", received=path)
    for name in LABEL_FILES:
        if (root / name).is_file():
            return table(str(root / name))
    ready = _has_splits(root)
    records = [record for child in _folders(root) for record in _records(child, ready)]
    if not records:
        flat = any(pictures(root))
        what = "the pictures of this folder have no labels" if flat else "no pictures in this folder"
        allowed = "a sub-folder for each class, or a flat folder with a labels.csv of path,label"
        raise UserError(what, received=path, allowed=allowed)
    return Rows(root.resolve().name, (), ("image",), by_split(records))


def _records(child: Path, split: bool) -> list[dict[str, str]]:
    if split and child.name.lower() in SPLIT_NAMES:
        part = SPLIT_NAMES[child.name.lower()]
        return [record | {"split": part} for inner in _folders(child) for record in _records(inner, False)]
    return [{"image": str(path), "label": child.name, "file": str(path)} for path in pictures(child)]


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _has_splits(root: Path) -> bool:
    """Whether a folder comes split: every sub-folder is named after a split, one is train, and all hold folders."""
    children = _folders(root)
    names = {SPLIT_NAMES.get(child.name.lower(), "") for child in children}
    return "train" in names and "" not in names and all(_folders(child) for child in children)
