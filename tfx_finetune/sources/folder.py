"""A folder with a sub-folder for each class."""

from pathlib import Path

from tfx_finetune.contracts import SOURCES, Source
from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.sources.rows import PICTURES, SPLIT_NAMES, Rows, by_split, hidden, pictures, readable
from tfx_finetune.sources.table import table

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
        raise UserError("not a folder" if root.exists() else "no such folder", received=path)
    for name in LABEL_FILES:
        if (root / name).is_file():
            return table(str(root / name))
    found = pictures(root)
    if not found:
        raise UserError("no pictures in this folder", received=path, allowed=PICTURES)
    below = [file.relative_to(root).parts for file in found]
    tops = sorted({parts[0] for parts in below if len(parts) > 1})
    # A class may be called `test`; only where every sub-folder is named after a split are they splits.
    ready = bool(tops) and all(name.lower() in SPLIT_NAMES for name in tops)
    depth = 2 if ready else 1
    labelled = {parts[: depth - 1] for parts in below if len(parts) > depth}
    for holder in [(name,) for name in tops] if ready else [()]:
        if holder not in labelled:
            allowed = "a sub-folder for each class, or a flat folder with a labels.csv of path,label"
            what = "the pictures of this folder have no labels"
            raise UserError(what, received=root.joinpath(*holder), allowed=allowed)
    records = [_record(file, parts[:depth]) for file, parts in zip(found, below, strict=True) if len(parts) > depth]
    _tell_left_out(root, tops, len(found) - len(records))
    return Rows(readable(root.resolve().name), (), ("image",), by_split(records))


def _record(file: Path, place: tuple[str, ...]) -> dict[str, str]:
    split = {"split": SPLIT_NAMES[place[0].lower()]} if len(place) == 2 else {}
    return split | {"image": str(file), "label": readable(place[-1]), "file": readable(str(file))}


def _tell_left_out(root: Path, tops: list[str], loose: int) -> None:
    if loose:
        progress.say(f"left out: {loose} pictures of {readable(str(root))} that lie in no class folder")
    for child in sorted(root.iterdir()):
        if child.is_dir() and not hidden(child.name) and child.name not in tops:
            progress.say(f"left out: no pictures in {readable(str(child))}")
