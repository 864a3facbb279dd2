"""Data sets in the format of YOLO: a text file with the boxes of each picture."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import SPLIT_NAMES, Rows, by_split, pictures, readable
from tfx_finetune.datasets.sources.yolo_file import Line, names, objects, settings
from tfx_finetune.ops.annotations import Care, mended
from tfx_finetune.ops.exif import header
from tfx_finetune.ops.objects import Object, written
from tfx_finetune.types.components import SOURCES, Source

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names", "train/labels/classes.txt")
# Shares reach a little beyond 1 where boxes reach beyond their picture, pixels far beyond.
_PIXELS = 2.0


@SOURCES.register
def yolo(path: str) -> Source:
    """Boxes, or outlines, whose boxes are taken, in the format of YOLO: yolo('shop') or yolo('shop/data.yaml').

    A folder with images/ and labels/, with train/, val/ and test/ below or above them, or as its data.yaml says. The
    names of the classes are those of data.yaml, else of classes.txt, else numbers. Pictures without a file of labels
    are kept: there is nothing to be found in them.

    Args:
        path: The folder, or its data.yaml.

    Raises:
        UserError: It is not such a folder, or holds no labels.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError("no such folder or file", received=path)
    root = place.parent if place.is_file() else place
    file = place if place.is_file() else _first(root, SETTINGS)
    said = settings(file) if file else {}
    labels = _names(root, file, said)
    care = Care()
    found: list[tuple[str, Path, list[Line]]] = []
    files = 0
    for split, own in _splits(root, said, care).items():
        for picture, beside in own:
            lines: list[Line] = []
            if beside.is_file():
                files += 1
                text = beside.read_text("utf-8-sig", errors="replace")
                lines = objects(text, "kpt_shape" in said, care, readable(str(beside)))
            else:
                care.count("pictures without a file of labels, taken for empty", readable(str(picture)))
            found.append((split, picture, lines))
    numbers = [line.number for *_, lines in found for line in lines]
    labels = labels or tuple(str(number) for number in range(max(numbers, default=-1) + 1))
    records = list(_records(found, labels, care)) if files else []
    notes = care.told()
    if not records:
        allowed = "images/1.jpg and labels/1.txt, or what data.yaml says"
        raise UserError("no labels in this folder", received=path, allowed=allowed)
    return Rows(readable(root.resolve().name), labels, ("image",), by_split(records), notes)


def is_folder(folder: Path) -> bool:
    """Whether a folder has pictures and labels as YOLO wants them."""
    if _first(folder, SETTINGS):
        return True
    holders = (folder, *(folder / name for name in _below(folder)))
    both = (each / "labels" for each in holders if (each / "images").is_dir())
    return any(next(labels.glob(pattern), None) for labels in both for pattern in ("*.txt", "*/*.txt"))


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _names(root: Path, file: Path | None, said: dict[str, Any]) -> tuple[str, ...]:
    if file and said.get("names"):
        return names(said["names"], file)
    if place := _first(root, _NAMES):
        return names(list(filter(None, map(str.strip, place.read_text("utf-8-sig").splitlines()))), place)
    return ()


def _splits(root: Path, said: dict[str, Any], care: Care) -> dict[str, list[tuple[Path, Path]]]:
    """Pictures and the files of their labels, by split; an empty name where there are none."""
    places: dict[str, list[Path]] = {}
    for key in said:
        if key in SPLIT_NAMES and said[key]:
            every = said[key] if isinstance(said[key], list) else [said[key]]
            places[SPLIT_NAMES[key]] = [_place(root, str(said.get("path") or ""), each) for each in every]
    if not places:
        below = _below(root / "images") if (root / "images").is_dir() else []
        places = {SPLIT_NAMES[name.lower()]: [root / "images" / name] for name in below}
        places = places or {SPLIT_NAMES[name.lower()]: [root / name / "images"] for name in _below(root)}
        places = places or {"": [root / "images" if (root / "images").is_dir() else root]}
    return {split: [pair for each in own for pair in _pairs(each, care)] for split, own in places.items()}


def _below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLIT_NAMES)


def _place(root: Path, base: str, value: str) -> Path:
    """What a data.yaml names: from its `path`, from itself, or, as exported files have it, from a folder within."""
    value = value.rstrip("/")
    tries = [root / base / value, root / value, root / value.removeprefix("../"), root / value.removeprefix("./")]
    found = next((place for place in tries if place.exists()), None)
    if found is None:
        raise UserError("no such folder or file", received=tries[0], todo="mend `path` or the splits of data.yaml")
    return found


def _pairs(place: Path, care: Care) -> Iterator[tuple[Path, Path]]:
    """The pictures of a folder, or of a list, and where the labels of each are."""
    if place.is_file():
        lines = filter(None, map(str.strip, place.read_text("utf-8-sig").splitlines()))
        yield from ((place.parent / line, _labels(place.parent / line)) for line in lines)
        return
    pairs = [(picture, _labels(picture)) for picture in pictures(place)]
    yield from pairs
    known = {labels for _, labels in pairs}
    for folder in {labels.parent for labels in known}:
        for labels in folder.glob("*.txt"):
            if labels not in known and labels.name != "classes.txt":
                care.count("files of labels without a picture, left out", readable(str(labels)))


def _labels(picture: Path) -> Path:
    """The file of a picture's labels: in `labels` in place of the last `images` of its path, else beside it."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _records(
    found: list[tuple[str, Path, list[Line]]], labels: tuple[str, ...], care: Care
) -> Iterator[dict[str, str]]:
    edges = [max(map(abs, line.edges)) for *_, lines in found for line in lines]
    pixels = bool(edges) and statistics.median(edges) > _PIXELS
    if pixels:
        care.count("boxes in pixels where YOLO has shares of the picture, taken as pixels", "all", len(edges))
    for split, picture, lines in found:
        file = readable(str(picture))
        kept = []
        sized = header(picture) if pixels else None
        for line in lines:
            width, height = sized[:2] if sized else (1, 1)
            left, top, right, bottom = line.edges
            if not 0 <= line.number < len(labels):
                care.count("objects of an unknown class, left out", f"{file}: {line.number}")
            elif not pixels and max(map(abs, line.edges)) > _PIXELS:
                care.count("boxes far outside of their picture, perhaps in pixels, left out", file)
            elif inside := mended((left / width, top / height, right / width, bottom / height), care, file):
                kept.append(Object(labels[line.number], *inside))
        record = {"image": str(picture), "file": file, "objects": written(kept)}
        yield record | ({"split": split} if split else {})
