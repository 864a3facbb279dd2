"""Data sets in the format of YOLO: a text file with the boxes of each picture."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.in_memory import (
    SPLIT_NAMES,
    InMemorySource,
    find_images,
    format_path,
    group_columns_by_split,
)
from tfx_finetune.datasets.sources.yolo_file import YoloObject, parse_class_names, parse_yolo_lines, read_settings
from tfx_finetune.ops.annotations import AnnotationIssues, repair_box
from tfx_finetune.ops.exif import read_image_header
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source

SETTINGS_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "train/labels/classes.txt")
# Shares reach a little beyond 1 where boxes reach beyond their picture, pixels far beyond.
_MAX_NORMALIZED = 2.0


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
        raise UserError("no such folder or file", got=path)
    root = place.parent if place.is_file() else place
    file = place if place.is_file() else _find_first_file(root, SETTINGS_FILES)
    said = read_settings(file) if file else {}
    labels = _read_class_names(root, file, said)
    care = AnnotationIssues()
    found: list[tuple[str, Path, list[YoloObject]]] = []
    files = 0
    for split, own in _find_label_files_by_split(root, said, care).items():
        for picture, beside in own:
            lines: list[YoloObject] = []
            if beside.is_file():
                files += 1
                text = beside.read_text("utf-8-sig", errors="replace")
                lines = parse_yolo_lines(text, "kpt_shape" in said, care, format_path(str(beside)))
            else:
                care.count("pictures without a file of labels, taken for empty", format_path(str(picture)))
            found.append((split, picture, lines))
    numbers = [line.class_id for *_, lines in found for line in lines]
    labels = labels or tuple(str(number) for number in range(max(numbers, default=-1) + 1))
    records = list(_make_records(found, labels, care)) if files else []
    notes = care.report()
    if not records:
        allowed = "images/1.jpg and labels/1.txt, or what data.yaml says"
        raise UserError("no labels in this folder", got=path, expected=allowed)
    return InMemorySource(format_path(root.resolve().name), labels, ("image",), group_columns_by_split(records), notes)


def is_yolo_folder(folder: Path) -> bool:
    """Whether a folder has pictures and labels as YOLO wants them."""
    if _find_first_file(folder, SETTINGS_FILES):
        return True
    holders = (folder, *(folder / name for name in _list_split_folder_names(folder)))
    both = (each / "labels" for each in holders if (each / "images").is_dir())
    return any(next(labels.glob(pattern), None) for labels in both for pattern in ("*.txt", "*/*.txt"))


def _find_first_file(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _read_class_names(root: Path, file: Path | None, settings: dict[str, Any]) -> tuple[str, ...]:
    if file and settings.get("names"):
        return parse_class_names(settings["names"], file)
    if place := _find_first_file(root, _CLASS_FILES):
        return parse_class_names(list(filter(None, map(str.strip, place.read_text("utf-8-sig").splitlines()))), place)
    return ()


def _find_label_files_by_split(
    root: Path, settings: dict[str, Any], issues: AnnotationIssues
) -> dict[str, list[tuple[Path, Path]]]:
    """Pictures and the files of their labels, by split; an empty name where there are none."""
    places: dict[str, list[Path]] = {}
    for key in settings:
        if key in SPLIT_NAMES and settings[key]:
            every = settings[key] if isinstance(settings[key], list) else [settings[key]]
            places[SPLIT_NAMES[key]] = [_resolve_path(root, str(settings.get("path") or ""), each) for each in every]
    if not places:
        below = _list_split_folder_names(root / "images") if (root / "images").is_dir() else []
        places = {SPLIT_NAMES[name.lower()]: [root / "images" / name] for name in below}
        places = places or {
            SPLIT_NAMES[name.lower()]: [root / name / "images"] for name in _list_split_folder_names(root)
        }
        places = places or {"": [root / "images" if (root / "images").is_dir() else root]}
    return {
        split: [pair for each in own for pair in _iterate_image_label_pairs(each, issues)]
        for split, own in places.items()
    }


def _list_split_folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLIT_NAMES)


def _resolve_path(root: Path, base: str, value: str) -> Path:
    """What a data.yaml names: from its `path`, from itself, or, as exported files have it, from a folder within."""
    value = value.rstrip("/")
    tries = [root / base / value, root / value, root / value.removeprefix("../"), root / value.removeprefix("./")]
    found = next((place for place in tries if place.exists()), None)
    if found is None:
        raise UserError("no such folder or file", got=tries[0], hint="mend `path` or the splits of data.yaml")
    return found


def _iterate_image_label_pairs(path: Path, issues: AnnotationIssues) -> Iterator[tuple[Path, Path]]:
    """The pictures of a folder, or of a list, and where the labels of each are."""
    if path.is_file():
        lines = filter(None, map(str.strip, path.read_text("utf-8-sig").splitlines()))
        yield from ((path.parent / line, _get_label_file(path.parent / line)) for line in lines)
        return
    pairs = [(picture, _get_label_file(picture)) for picture in find_images(path)]
    yield from pairs
    known = {labels for _, labels in pairs}
    for folder in {labels.parent for labels in known}:
        for labels in folder.glob("*.txt"):
            if labels not in known and labels.name != "classes.txt":
                issues.count("files of labels without a picture, left out", format_path(str(labels)))


def _get_label_file(image: Path) -> Path:
    """The file of a picture's labels: in `labels` in place of the last `images` of its path, else beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _make_records(
    annotated_images: list[tuple[str, Path, list[YoloObject]]], labels: tuple[str, ...], issues: AnnotationIssues
) -> Iterator[dict[str, str]]:
    edges = [max(map(abs, line.box)) for *_, lines in annotated_images for line in lines]
    pixels = bool(edges) and statistics.median(edges) > _MAX_NORMALIZED
    if pixels:
        issues.count("boxes in pixels where YOLO has shares of the picture, taken as pixels", "all", len(edges))
    for split, picture, lines in annotated_images:
        file = format_path(str(picture))
        kept = []
        sized = read_image_header(picture) if pixels else None
        for line in lines:
            width, height = sized[:2] if sized else (1, 1)
            left, top, right, bottom = line.box
            if not 0 <= line.class_id < len(labels):
                issues.count("objects of an unknown class, left out", f"{file}: {line.class_id}")
            elif not pixels and max(map(abs, line.box)) > _MAX_NORMALIZED:
                issues.count("boxes far outside of their picture, perhaps in pixels, left out", file)
            elif inside := repair_box((left / width, top / height, right / width, bottom / height), issues, file):
                kept.append(Object(labels[line.class_id], *inside))
        record = {"image": str(picture), "file": file, "objects": format_objects(kept)}
        yield record | ({"split": split} if split else {})
