"""Parser of COCO files (https://cocodataset.org/#format-data): images, annotations and categories."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name, parse_numbers

_LISTS = ("images", "annotations", "categories")
_HEADER_BYTES = 1 << 16


class CocoAnnotation(NamedTuple):
    """Annotation of one object.

    Attributes:
        label: Class name.
        box: Left, top, right and bottom in the units of the file, or None.
        segmentation: Unparsed segmentation, or None.
        crowd: True for a group of objects (`iscrowd`).
    """

    label: str
    box: BoxXYXY | None
    segmentation: Any
    crowd: bool


@dataclass
class CocoImage:
    """Image that a COCO file lists.

    Attributes:
        file: File name of the image.
        size: Width and height in pixels that the file states, or None.
        annotations: Objects in the image.
    """

    file: str
    size: tuple[float, float] | None
    annotations: list[CocoAnnotation] = field(default_factory=list)


def is_coco_file(path: Path) -> bool:
    """Return True if the beginning of a JSON file looks like COCO's format, and not like JSON lines."""
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    line = header.lstrip().split(b"\n", 1)[0]
    try:
        content = json.loads(line)
    except ValueError:
        return re.search(rb'"(images|annotations|categories)"\s*:\s*\[', header) is not None
    return isinstance(content, dict) and {"images", "annotations"} <= set(content)


def read_coco_file(path: Path, issues: AnnotationIssues) -> tuple[tuple[str, ...], list[CocoImage]]:
    """Read a COCO file.

    Args:
        path: JSON file.
        issues: Receives a count for everything that cannot be used.

    Returns:
        The class names in the order of their ids, and the images in the order of the file.

    Raises:
        UserError: If the file has another format or lists no images.
    """
    content = _load_json(path)
    names = _parse_category_names(content["categories"], issues, path)
    images_by_id = _parse_images(content["images"], issues, path)
    if not images_by_id:
        raise UserError("The COCO file lists no images", got=path)
    keys: set[Any] = set()
    ids: set[Any] = set()
    for entry in content["annotations"]:
        image = images_by_id.get(_get_id(entry, "image_id"))
        annotation = _parse_annotation(entry, image, names, issues, path)
        if image is None or annotation is None:
            continue
        # Two annotators may draw the same object, but not with exactly the same coordinates.
        shape = annotation.box or json.dumps(annotation.segmentation)
        key = (id(image), annotation.label, annotation.crowd, shape)
        if key in keys:
            issues.count("duplicate annotations, left out", image.file)
            continue
        keys.add(key)
        if (annotation_id := _get_id(entry, "id")) is not None and annotation_id in ids:
            issues.count("annotations with a duplicate id, kept", image.file)
        ids.add(annotation_id)
        image.annotations.append(annotation)
    images = {id(image): image for image in images_by_id.values()}  # one image may have two ids
    return tuple(dict.fromkeys(names.values())), list(images.values())


def read_ids(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the category ids by class name and the image ids by file name.

    Raises:
        UserError: If the file has another format.
    """
    content, issues = _load_json(path), AnnotationIssues()
    names = _parse_category_names(content["categories"], issues, path)
    images = _parse_images(content["images"], issues, path)
    category_ids = {name: category_id for category_id, name in names.items()}
    return category_ids, {image.file: image_id for image_id, image in images.items()}


def _load_json(path: Path) -> dict[str, list[Any]]:
    expected = f"a JSON object with the lists {', '.join(_LISTS)}"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("Cannot read the COCO file", got=f"{path} ({error})", expected=expected) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        got = f"{path}, with {', '.join(content) or 'nothing'}" if isinstance(content, dict) else path
        raise UserError("Not a COCO file", got=got, expected=expected)
    return content


def _parse_category_names(categories: list[Any], issues: AnnotationIssues, path: Path) -> dict[Any, str]:
    """Return class names by id, in the order of the ids, which may have gaps."""
    names: dict[Any, str] = {}
    for entry in categories:
        category_id = _get_id(entry, "id")
        if category_id is None:
            issues.count("categories without an id, left out", path.name)
            continue
        name = normalize_class_name(entry.get("name") or category_id)
        if names.setdefault(category_id, name) != name:
            got = f"{path}: {category_id} is {names[category_id]} and {name}"
            raise UserError("A category id has two names", got=got, hint="give each category its own id")
    for name in {name for name in names.values() if list(names.values()).count(name) > 1}:
        issues.count("categories with the same name, merged", name)
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _parse_images(images: list[Any], issues: AnnotationIssues, path: Path) -> dict[Any, CocoImage]:
    """Return images by id; a file that is listed under two ids is one image."""
    by_id: dict[Any, CocoImage] = {}
    by_file: dict[str, CocoImage] = {}
    duplicate_ids: set[Any] = set()
    for entry in images:
        image_id, file = _get_id(entry, "id"), entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or not isinstance(file, str) or not file:
            issues.count("images without an id or a file name, left out", path.name)
            continue
        if file in by_file:
            issues.count("images that are listed twice, merged", file)
        size = parse_numbers([entry.get("width"), entry.get("height")], 2)
        image = by_file.setdefault(file, CocoImage(file, size))  # type: ignore[arg-type]
        if by_id.setdefault(image_id, image) is not image:
            duplicate_ids.add(image_id)
            issues.count("images with a duplicate id, all left out with their annotations", file)
    return {image_id: image for image_id, image in by_id.items() if image_id not in duplicate_ids}


def _parse_annotation(
    entry: Any, image: CocoImage | None, names: Mapping[Any, str], issues: AnnotationIssues, path: Path
) -> CocoAnnotation | None:
    if not isinstance(entry, dict) or image is None:
        location = f"image {entry.get('image_id')}" if isinstance(entry, dict) else path.name
        issues.count("annotations of an unlisted image, left out", location)
        return None
    category_id = _get_id(entry, "category_id")
    if category_id not in names:
        issues.count("annotations of an unknown category, left out", f"{image.file}: {entry.get('category_id')}")
        return None
    bbox = parse_numbers(entry.get("bbox"), 4)
    box = (bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]) if bbox else None
    segmentation = entry.get("segmentation") or None
    if bbox and segmentation and not (bbox[2] and bbox[3]):
        issues.count("boxes without area, computed from their segmentation", image.file)
        box = None
    if box is None and segmentation is None:
        issues.count("annotations without a box or a segmentation, left out", image.file)
        return None
    return CocoAnnotation(names[category_id], box, segmentation, entry.get("iscrowd") in (1, "1"))


def _get_id(entry: Any, key: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str | float) else None
