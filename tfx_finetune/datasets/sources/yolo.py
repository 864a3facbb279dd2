"""Source of data sets in YOLO's format: one text file with the boxes of each image."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.data_files import SPLIT_NAMES, find_images, format_path
from tfx_finetune.datasets.sources.in_memory import InMemorySource, group_columns_by_split
from tfx_finetune.datasets.sources.yolo_file import YoloObject, parse_class_names, parse_yolo_lines, read_settings
from tfx_finetune.ops.annotations import AnnotationIssues, repair_box
from tfx_finetune.ops.image import read_image_header
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.types.components import SOURCES, Source

SETTINGS_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "train/labels/classes.txt")
# Fractions exceed 1 slightly if a box exceeds its image, pixels exceed 1 by far.
_MAX_NORMALIZED = 2.0


@SOURCES.register
def yolo(path: str) -> Source:
    """Read boxes in YOLO's format, such as yolo('shop') or yolo('shop/data.yaml'); polygons become their boxes.

    The folder has images/ and labels/, with train/, val/ and test/ above or below them, or as its data.yaml says. Class
    names are those of data.yaml, else of classes.txt, else numbers. Images without a label file are samples without
    objects.

    Args:
        path: Folder of the data, or its data.yaml.

    Raises:
        UserError: If the folder has another layout or no labels.
    """
    given_path = Path(path).expanduser()
    if not given_path.exists():
        raise UserError("No such file or folder", got=path)
    root = given_path.parent if given_path.is_file() else given_path
    settings_file = given_path if given_path.is_file() else _find_first_file(root, SETTINGS_FILES)
    settings = read_settings(settings_file) if settings_file else {}
    labels = _read_class_names(root, settings_file, settings)
    issues = AnnotationIssues()
    images: list[AnnotatedImage] = []
    num_label_files = 0
    for split, pairs in _find_label_files_by_split(root, settings, issues).items():
        for image, label_file in pairs:
            objects: list[YoloObject] = []
            if label_file.is_file():
                num_label_files += 1
                text = label_file.read_text("utf-8-sig", errors="replace")
                objects = parse_yolo_lines(text, "kpt_shape" in settings, issues, format_path(str(label_file)))
            else:
                issues.count("images without a label file, read as images without objects", format_path(str(image)))
            images.append(AnnotatedImage(split, image, objects))
    max_class_id = max((item.class_id for image in images for item in image.objects), default=-1)
    labels = labels or tuple(str(number) for number in range(max_class_id + 1))
    records = list(_make_records(images, labels, issues)) if num_label_files else []
    warnings = issues.report()
    if not records:
        layout = "images/1.jpg and labels/1.txt, or the layout of a data.yaml"
        raise UserError("The folder has no labels", got=path, expected=layout)
    name = format_path(root.resolve().name)
    return InMemorySource(name, labels, ("image",), group_columns_by_split(records), warnings)


def is_yolo_folder(folder: Path) -> bool:
    """Return True if a folder has a data.yaml, or images and labels in the layout of YOLO."""
    if _find_first_file(folder, SETTINGS_FILES):
        return True
    parents = (folder, *(folder / name for name in _list_split_folder_names(folder)))
    label_folders = (parent / "labels" for parent in parents if (parent / "images").is_dir())
    return any(next(labels.glob(pattern), None) for labels in label_folders for pattern in ("*.txt", "*/*.txt"))


class AnnotatedImage(NamedTuple):
    """Image of a YOLO data set.

    Attributes:
        split: Split of the image; empty for none.
        path: Image file.
        objects: Objects of its label file.
    """

    split: str
    path: Path
    objects: list[YoloObject]


def _find_first_file(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _read_class_names(root: Path, settings_file: Path | None, settings: dict[str, Any]) -> tuple[str, ...]:
    if settings_file and settings.get("names"):
        return parse_class_names(settings["names"], settings_file)
    if path := _find_first_file(root, _CLASS_FILES):
        return parse_class_names(list(filter(None, map(str.strip, path.read_text("utf-8-sig").splitlines()))), path)
    return ()


def _find_label_files_by_split(
    root: Path, settings: dict[str, Any], issues: AnnotationIssues
) -> dict[str, list[tuple[Path, Path]]]:
    """Return pairs of an image and its label file by split; data without splits have the split ''."""
    image_folders: dict[str, list[Path]] = {}
    base = str(settings.get("path") or "")
    for key in settings:
        if key in SPLIT_NAMES and settings[key]:
            values = settings[key] if isinstance(settings[key], list) else [settings[key]]
            image_folders[SPLIT_NAMES[key]] = [_resolve_path(root, base, str(value)) for value in values]
    if not image_folders:
        names = _list_split_folder_names(root / "images") if (root / "images").is_dir() else []
        image_folders = {SPLIT_NAMES[name.lower()]: [root / "images" / name] for name in names}
        image_folders = image_folders or {
            SPLIT_NAMES[name.lower()]: [root / name / "images"] for name in _list_split_folder_names(root)
        }
        image_folders = image_folders or {"": [root / "images" if (root / "images").is_dir() else root]}
    return {
        split: [pair for folder in folders for pair in _iterate_image_label_pairs(folder, issues)]
        for split, folders in image_folders.items()
    }


def _list_split_folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLIT_NAMES)


def _resolve_path(root: Path, base: str, value: str) -> Path:
    """Find a path of a data.yaml: relative to its `path`, to itself or, as in exported files, to a sub-folder."""
    value = value.rstrip("/")
    candidates = [root / base / value, root / value, root / value.removeprefix("../"), root / value.removeprefix("./")]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        hint = "correct `path` or the splits in data.yaml"
        raise UserError("No such file or folder", got=candidates[0], hint=hint)
    return path


def _iterate_image_label_pairs(path: Path, issues: AnnotationIssues) -> Iterator[tuple[Path, Path]]:
    """Yield the images of a folder or of a list file, each with the path of its label file."""
    if path.is_file():
        lines = filter(None, map(str.strip, path.read_text("utf-8-sig").splitlines()))
        yield from ((path.parent / line, _get_label_file(path.parent / line)) for line in lines)
        return
    pairs = [(image, _get_label_file(image)) for image in find_images(path)]
    yield from pairs
    label_files = {label_file for _, label_file in pairs}
    for folder in {label_file.parent for label_file in label_files}:
        for file in folder.glob("*.txt"):
            if file not in label_files and file.name != "classes.txt":
                issues.count("label files without an image, left out", format_path(str(file)))


def _get_label_file(image: Path) -> Path:
    """Return the label file of an image: the last `images` of its path becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _make_records(
    images: list[AnnotatedImage], labels: tuple[str, ...], issues: AnnotationIssues
) -> Iterator[dict[str, str]]:
    max_coordinates = [max(map(abs, item.box)) for image in images for item in image.objects]
    in_pixels = bool(max_coordinates) and statistics.median(max_coordinates) > _MAX_NORMALIZED
    if in_pixels:
        issue = "boxes in pixels instead of fractions of the image, read as pixels"
        issues.count(issue, "all", len(max_coordinates))
    for split, path, yolo_objects in images:
        file = format_path(str(path))
        objects = []
        header = read_image_header(path) if in_pixels else None
        width, height = header[:2] if header else (1, 1)
        for class_id, (left, top, right, bottom) in yolo_objects:
            if not 0 <= class_id < len(labels):
                issues.count("objects of an unknown class, left out", f"{file}: {class_id}")
            elif not in_pixels and max(map(abs, (left, top, right, bottom))) > _MAX_NORMALIZED:
                issues.count("boxes far outside the image, perhaps in pixels, left out", file)
            elif box := repair_box((left / width, top / height, right / width, bottom / height), issues, file):
                objects.append(Object(labels[class_id], *box))
        yield {"image": str(path), "file": file, "objects": format_objects(objects), "split": split}
