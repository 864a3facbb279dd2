"""The content of a COCO file: what is annotated in which picture, https://cocodataset.org/#format-data."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name, parse_numbers

_LISTS = ("images", "annotations", "categories")
_HEAD_BYTES = 1 << 16


class CocoAnnotation(NamedTuple):
    """One object: its class, its box as the file has it (left, top, right, bottom), its outline, whether a crowd."""

    label: str
    box: BoxXYXY | None
    segmentation: Any
    crowd: bool


@dataclass
class CocoImage:
    """A picture that a COCO file lists: its file, width and height where they are said, and what is in it."""

    file: str
    size: tuple[float, float] | None
    annotations: list[CocoAnnotation] = field(default_factory=list)


def is_coco_file(path: Path) -> bool:
    """Whether a JSON file is one of COCO's, and not one of a row a line; its beginning tells."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    line = head.lstrip().split(b"\n", 1)[0]
    try:
        first = json.loads(line)
    except ValueError:
        return re.search(rb'"(images|annotations|categories)"\s*:\s*\[', head) is not None
    return isinstance(first, dict) and {"images", "annotations"} <= set(first)


def read_coco_file(path: Path, issues: AnnotationIssues) -> tuple[tuple[str, ...], list[CocoImage]]:
    """Reads a COCO file.

    Args:
        place: The file.
        care: What cannot be used is counted here.

    Returns:
        The classes, in the order of their ids, and the pictures, in that of the file.

    Raises:
        UserError: It is not such a file, or lists no picture.
    """
    content = _load_json(path)
    names = _parse_category_names(content["categories"], issues, path)
    by_id = _parse_images(content["images"], issues, path)
    if not by_id:
        raise UserError("this COCO file lists no pictures", got=path)
    seen: set[Any] = set()
    ids: set[Any] = set()
    for entry in content["annotations"]:
        picture = by_id.get(_get_id(entry, "image_id"))
        found = _parse_annotation(entry, picture, names, issues, path)
        if picture is None or found is None:
            continue
        # Two people may have drawn round one thing, but never to the same hundredth of a pixel.
        same = (id(picture), found.label, found.crowd, found.box or json.dumps(found.segmentation))
        if same in seen:
            issues.count("annotations that are there twice, left out", picture.file)
            continue
        seen.add(same)
        if (own := _get_id(entry, "id")) is not None and own in ids:
            issues.count("annotations with the id of another one, kept", picture.file)
        ids.add(own)
        picture.annotations.append(found)
    return tuple(dict.fromkeys(names.values())), list({id(each): each for each in by_id.values()}.values())


def read_ids(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids of the classes by name, and those of the pictures by file, of a COCO file.

    Raises:
        UserError: It is not such a file.
    """
    content, care = _load_json(path), AnnotationIssues()
    names = _parse_category_names(content["categories"], care, path)
    pictures = _parse_images(content["images"], care, path)
    return {name: own for own, name in names.items()}, {picture.file: own for own, picture in pictures.items()}


def _load_json(path: Path) -> dict[str, list[Any]]:
    allowed = f"one JSON object with the lists {', '.join(_LISTS)}"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("cannot read this COCO file", got=f"{path} ({error})", expected=allowed) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        received = f"{path}, with {', '.join(content) or 'nothing'}" if isinstance(content, dict) else path
        raise UserError("not a COCO file", got=received, expected=allowed)
    return content


def _parse_category_names(categories: list[Any], issues: AnnotationIssues, path: Path) -> dict[Any, str]:
    """Classes by id, in the order of ids, which may have gaps."""
    names: dict[Any, str] = {}
    for entry in categories:
        own = _get_id(entry, "id")
        if own is None:
            issues.count("categories without an id, left out", path.name)
            continue
        name = normalize_class_name(entry.get("name") or own)
        if names.setdefault(own, name) != name:
            received = f"{path}: {own} is {names[own]} and {name}"
            raise UserError("a category id with two names", got=received, hint="give each an id of its own")
    for name in {name for name in names.values() if list(names.values()).count(name) > 1}:
        issues.count("categories of one name, joined", name)
    return dict(sorted(names.items(), key=lambda each: (isinstance(each[0], str), each[0])))


def _parse_images(images: list[Any], issues: AnnotationIssues, path: Path) -> dict[Any, CocoImage]:
    """Pictures by id; what is listed under two ids is one picture."""
    by_id: dict[Any, CocoImage] = {}
    by_file: dict[str, CocoImage] = {}
    shared: set[Any] = set()
    for entry in images:
        own, file = _get_id(entry, "id"), entry.get("file_name") if isinstance(entry, dict) else None
        if own is None or not isinstance(file, str) or not file:
            issues.count("pictures without an id or a file name, left out", path.name)
            continue
        if file in by_file:
            issues.count("pictures that are listed twice, joined", file)
        picture = by_file.setdefault(file, CocoImage(file, parse_numbers([entry.get("width"), entry.get("height")], 2)))  # type: ignore[arg-type]
        if by_id.setdefault(own, picture) is not picture:
            shared.add(own)
            issues.count("pictures with the id of another one, left out with that one and their annotations", file)
    return {own: picture for own, picture in by_id.items() if own not in shared}


def _parse_annotation(
    entry: Any, image: CocoImage | None, names: Mapping[Any, str], issues: AnnotationIssues, path: Path
) -> CocoAnnotation | None:
    if not isinstance(entry, dict) or image is None:
        where = f"image {entry.get('image_id')}" if isinstance(entry, dict) else path.name
        issues.count("annotations of a picture that is not listed, left out", where)
        return None
    category = _get_id(entry, "category_id")
    if category not in names:
        issues.count("annotations of an unknown category, left out", f"{image.file}: {entry.get('category_id')}")
        return None
    box = parse_numbers(entry.get("bbox"), 4)
    edges = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box else None
    outline = entry.get("segmentation") or None
    if box and outline and not (box[2] and box[3]):
        issues.count("boxes without area, made of their outline", image.file)
        edges = None
    if edges is None and outline is None:
        issues.count("annotations with neither box nor outline, left out", image.file)
        return None
    return CocoAnnotation(names[category], edges, outline, entry.get("iscrowd") in (1, "1"))


def _get_id(entry: Any, key: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str | float) else None
