"""The files of a YOLO data set: data.yaml, of whose language what such files use is read, and lines of objects."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY, normalize_class_name

# What follows a blank and # is a comment, but in quotes.
_UNCOMMENTED = re.compile(r"""(?:"[^"]*"|'[^']*'|(?<=\S)#|[^#])*""")
# `key: value`, `- value`; a value may be in quotes.
_ENTRY = re.compile(
    r"""^(?P<indent>\s*)(?:(?P<dash>-)\s+|(?P<key>"[^"]*"|'[^']*'|[^\s:#'"\[\]{},][^:#]*?)\s*:(?:\s+|$))?(?P<value>.*)$"""
)
_ITEM = re.compile(r"""\s*(?:(?P<key>"[^"]*"|'[^']*'|[^\s:,'"]+)\s*:\s*)?(?P<value>"[^"]*"|'[^']*'|[^,]*?)\s*(?:,|$)""")


class YoloObject(NamedTuple):
    """One object: the number of its class, and its box as the file has it, or that around its outline."""

    class_id: int
    box: BoxXYXY


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a data.yaml: texts, lists of texts, and mappings of texts by key.

    Raises:
        UserError: It is not UTF-8, or something else stands in it.
    """
    found: dict[str, Any] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError("cannot read the settings of the data", got=f"{path} ({error})") from None
    for number, line in enumerate(lines, 1):
        text = _UNCOMMENTED.match(line).group().rstrip()  # type: ignore[union-attr]
        if text and text not in ("---", "...") and not _parse_line(text, found):
            todo = "write `names: [cat, dog]`, or a name a line"
            raise UserError("cannot read this line", got=f"{path}, line {number}: {line}", hint=todo)
    return found


def _parse_line(text: str, settings: dict[str, Any]) -> bool:
    """Adds what a line says, to the last key where it stands below one; whether it could be read."""
    entry = _ENTRY.match(text)
    if entry is None:
        return False
    last = next(reversed(settings), "")
    block = settings.get(last) or ([] if entry["dash"] else {})
    if entry["dash"] and last and isinstance(block, list):
        settings[last] = [*block, _unquote(entry["value"])]
    elif entry["key"] and entry["indent"] and last and isinstance(block, dict):
        settings[last] = block | {_unquote(entry["key"]): _unquote(entry["value"])}
    elif entry["key"] and not entry["indent"] and not entry["dash"]:
        key = _unquote(entry["key"])
        settings.pop(key, None)
        settings[key] = _parse_value(entry["value"])
    else:
        return False
    return True


def _parse_value(text: str) -> Any:
    """A text, or what stands in brackets or braces on one line."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return _unquote(text)
    items = [item for item in _ITEM.finditer(text[1:-1]) if item.group().strip()]
    if text[0] == "{":
        return {_unquote(item["key"] or ""): _unquote(item["value"]) for item in items}
    return [_unquote(item["value"]) for item in items]


def _unquote(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def parse_class_names(value: Any, path: Path) -> tuple[str, ...]:
    """The classes of `names`, a list or a mapping of their numbers, in order.

    Raises:
        UserError: They are neither, or a number is missing or no number.
    """
    try:
        by_number = {
            int(key): normalize_class_name(name)
            for key, name in dict(enumerate(value) if isinstance(value, list) else value).items()
        }
    except (TypeError, ValueError):
        by_number = {}
    found = tuple(by_number.get(number, "") for number in range(len(by_number)))
    if not found or not all(found) or len(set(found)) < len(found):
        allowed = "a list of different names, or names by number from 0 on"
        raise UserError("cannot read the names of the classes", got=f"{path}: {value}", expected=allowed)
    return found


def parse_yolo_lines(text: str, has_keypoints: bool, issues: AnnotationIssues, where: str) -> list[YoloObject]:
    """Reads the objects of a picture: `class x_center y_center width height`, or `class x y x y x y ...`.

    Args:
        text: The file, a line an object.
        poses: Whether points of the body stand behind each box, which are not read.
        care: Lines that are neither are counted here.
        where: The file.
    """
    found: list[YoloObject] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            number, *values = map(float, line.split())
        except ValueError:
            values = []
        values = values[:4] if has_keypoints else values
        if len(values) < 4 or len(values) % 2 or (len(values) > 4 and len(values) < 6) or not number.is_integer():
            issues.count("lines that are neither a box nor an outline, left out", where)
            continue
        each = YoloObject(
            int(number), _convert_center_to_corners(values) if len(values) == 4 else _compute_bounding_box(values)
        )
        if each in found:
            issues.count("annotations that are there twice, left out", where)
        else:
            found.append(each)
    return found


def _convert_center_to_corners(values: list[float]) -> BoxXYXY:
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _compute_bounding_box(values: list[float]) -> BoxXYXY:
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
