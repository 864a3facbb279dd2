"""The content of a COCO file: what is annotated in which picture, https://cocodataset.org/#format-data."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import Care, Edges, named, numbers

_LISTS = ("images", "annotations", "categories")
_HEAD = 1 << 16


class Annotation(NamedTuple):
    """One object: its class, its box as the file has it (left, top, right, bottom), its outline, whether a crowd."""

    label: str
    edges: Edges | None
    outline: Any
    crowd: bool


@dataclass
class Picture:
    """A picture that a COCO file lists: its file, width and height where they are said, and what is in it."""

    file: str
    size: tuple[float, float] | None
    annotations: list[Annotation] = field(default_factory=list)


def is_coco(path: Path) -> bool:
    """Whether a JSON file is one of COCO's, and not one of a row a line; its beginning tells."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    line = head.lstrip().split(b"\n", 1)[0]
    try:
        first = json.loads(line)
    except ValueError:
        return re.search(rb'"(images|annotations|categories)"\s*:\s*\[', head) is not None
    return isinstance(first, dict) and {"images", "annotations"} <= set(first)


def read(place: Path, care: Care) -> tuple[tuple[str, ...], list[Picture]]:
    """Reads a COCO file.

    Args:
        place: The file.
        care: What cannot be used is counted here.

    Returns:
        The classes, in the order of their ids, and the pictures, in that of the file.

    Raises:
        UserError: It is not such a file, or lists no picture.
    """
    content = _parsed(place)
    names = _names(content["categories"], care, place)
    by_id = _pictures(content["images"], care, place)
    if not by_id:
        raise UserError("this COCO file lists no pictures", received=place)
    seen: set[Any] = set()
    ids: set[Any] = set()
    for entry in content["annotations"]:
        picture = by_id.get(_id(entry, "image_id"))
        found = _annotation(entry, picture, names, care, place)
        if picture is None or found is None:
            continue
        # Two people may have drawn round one thing, but never to the same hundredth of a pixel.
        same = (id(picture), found.label, found.crowd, found.edges or json.dumps(found.outline))
        if same in seen:
            care.count("annotations that are there twice, left out", picture.file)
            continue
        seen.add(same)
        if (own := _id(entry, "id")) is not None and own in ids:
            care.count("annotations with the id of another one, kept", picture.file)
        ids.add(own)
        picture.annotations.append(found)
    return tuple(dict.fromkeys(names.values())), list({id(each): each for each in by_id.values()}.values())


def ids(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids of the classes by name, and those of the pictures by file, of a COCO file.

    Raises:
        UserError: It is not such a file.
    """
    content, care = _parsed(place), Care()
    names = _names(content["categories"], care, place)
    pictures = _pictures(content["images"], care, place)
    return {name: own for own, name in names.items()}, {picture.file: own for own, picture in pictures.items()}


def _parsed(place: Path) -> dict[str, list[Any]]:
    allowed = f"one JSON object with the lists {', '.join(_LISTS)}"
    try:
        content = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("cannot read this COCO file", received=f"{place} ({error})", allowed=allowed) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        received = f"{place}, with {', '.join(content) or 'nothing'}" if isinstance(content, dict) else place
        raise UserError("not a COCO file", received=received, allowed=allowed)
    return content


def _names(categories: list[Any], care: Care, place: Path) -> dict[Any, str]:
    """Classes by id, in the order of ids, which may have gaps."""
    names: dict[Any, str] = {}
    for entry in categories:
        own = _id(entry, "id")
        if own is None:
            care.count("categories without an id, left out", place.name)
            continue
        name = named(entry.get("name") or own)
        if names.setdefault(own, name) != name:
            received = f"{place}: {own} is {names[own]} and {name}"
            raise UserError("a category id with two names", received=received, todo="give each an id of its own")
    for name in {name for name in names.values() if list(names.values()).count(name) > 1}:
        care.count("categories of one name, joined", name)
    return dict(sorted(names.items(), key=lambda each: (isinstance(each[0], str), each[0])))


def _pictures(images: list[Any], care: Care, place: Path) -> dict[Any, Picture]:
    """Pictures by id; what is listed under two ids is one picture."""
    by_id: dict[Any, Picture] = {}
    by_file: dict[str, Picture] = {}
    shared: set[Any] = set()
    for entry in images:
        own, file = _id(entry, "id"), entry.get("file_name") if isinstance(entry, dict) else None
        if own is None or not isinstance(file, str) or not file:
            care.count("pictures without an id or a file name, left out", place.name)
            continue
        if file in by_file:
            care.count("pictures that are listed twice, joined", file)
        picture = by_file.setdefault(file, Picture(file, numbers([entry.get("width"), entry.get("height")], 2)))  # type: ignore[arg-type]
        if by_id.setdefault(own, picture) is not picture:
            shared.add(own)
            care.count("pictures with the id of another one, left out with that one and their annotations", file)
    return {own: picture for own, picture in by_id.items() if own not in shared}


def _annotation(
    entry: Any, picture: Picture | None, names: Mapping[Any, str], care: Care, place: Path
) -> Annotation | None:
    if not isinstance(entry, dict) or picture is None:
        where = f"image {entry.get('image_id')}" if isinstance(entry, dict) else place.name
        care.count("annotations of a picture that is not listed, left out", where)
        return None
    category = _id(entry, "category_id")
    if category not in names:
        care.count("annotations of an unknown category, left out", f"{picture.file}: {entry.get('category_id')}")
        return None
    box = numbers(entry.get("bbox"), 4)
    edges = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box else None
    outline = entry.get("segmentation") or None
    if box and outline and not (box[2] and box[3]):
        care.count("boxes without area, made of their outline", picture.file)
        edges = None
    if edges is None and outline is None:
        care.count("annotations with neither box nor outline, left out", picture.file)
        return None
    return Annotation(names[category], edges, outline, entry.get("iscrowd") in (1, "1"))


def _id(entry: Any, key: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str | float) else None
