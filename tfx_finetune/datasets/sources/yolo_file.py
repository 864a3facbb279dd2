"""The files of a YOLO data set: data.yaml, of whose language what such files use is read, and lines of objects."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import Care, Edges, named

# What follows a blank and # is a comment, but in quotes.
_UNCOMMENTED = re.compile(r"""(?:"[^"]*"|'[^']*'|(?<=\S)#|[^#])*""")
# `key: value`, `- value`; a value may be in quotes.
_ENTRY = re.compile(
    r"""^(?P<indent>\s*)(?:(?P<dash>-)\s+|(?P<key>"[^"]*"|'[^']*'|[^\s:#'"\[\]{},][^:#]*?)\s*:(?:\s+|$))?(?P<value>.*)$"""
)
_ITEM = re.compile(r"""\s*(?:(?P<key>"[^"]*"|'[^']*'|[^\s:,'"]+)\s*:\s*)?(?P<value>"[^"]*"|'[^']*'|[^,]*?)\s*(?:,|$)""")


class Line(NamedTuple):
    """One object: the number of its class, and its box as the file has it, or that around its outline."""

    number: int
    edges: Edges


def settings(place: Path) -> dict[str, Any]:
    """Reads a data.yaml: texts, lists of texts, and mappings of texts by key.

    Raises:
        UserError: It is not UTF-8, or something else stands in it.
    """
    found: dict[str, Any] = {}
    try:
        lines = place.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError("cannot read the settings of the data", received=f"{place} ({error})") from None
    for number, line in enumerate(lines, 1):
        text = _UNCOMMENTED.match(line).group().rstrip()  # type: ignore[union-attr]
        if text and text not in ("---", "...") and not _taken(text, found):
            todo = "write `names: [cat, dog]`, or a name a line"
            raise UserError("cannot read this line", received=f"{place}, line {number}: {line}", todo=todo)
    return found


def _taken(text: str, found: dict[str, Any]) -> bool:
    """Adds what a line says, to the last key where it stands below one; whether it could be read."""
    entry = _ENTRY.match(text)
    if entry is None:
        return False
    last = next(reversed(found), "")
    block = found.get(last) or ([] if entry["dash"] else {})
    if entry["dash"] and last and isinstance(block, list):
        found[last] = [*block, _plain(entry["value"])]
    elif entry["key"] and entry["indent"] and last and isinstance(block, dict):
        found[last] = block | {_plain(entry["key"]): _plain(entry["value"])}
    elif entry["key"] and not entry["indent"] and not entry["dash"]:
        key = _plain(entry["key"])
        found.pop(key, None)
        found[key] = _value(entry["value"])
    else:
        return False
    return True


def _value(text: str) -> Any:
    """A text, or what stands in brackets or braces on one line."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return _plain(text)
    items = [item for item in _ITEM.finditer(text[1:-1]) if item.group().strip()]
    if text[0] == "{":
        return {_plain(item["key"] or ""): _plain(item["value"]) for item in items}
    return [_plain(item["value"]) for item in items]


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def names(value: Any, place: Path) -> tuple[str, ...]:
    """The classes of `names`, a list or a mapping of their numbers, in order.

    Raises:
        UserError: They are neither, or a number is missing or no number.
    """
    try:
        by_number = {
            int(key): named(name) for key, name in dict(enumerate(value) if isinstance(value, list) else value).items()
        }
    except (TypeError, ValueError):
        by_number = {}
    found = tuple(by_number.get(number, "") for number in range(len(by_number)))
    if not found or not all(found) or len(set(found)) < len(found):
        allowed = "a list of different names, or names by number from 0 on"
        raise UserError("cannot read the names of the classes", received=f"{place}: {value}", allowed=allowed)
    return found


def objects(text: str, poses: bool, care: Care, where: str) -> list[Line]:
    """Reads the objects of a picture: `class x_center y_center width height`, or `class x y x y x y ...`.

    Args:
        text: The file, a line an object.
        poses: Whether points of the body stand behind each box, which are not read.
        care: Lines that are neither are counted here.
        where: The file.
    """
    found: list[Line] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            number, *values = map(float, line.split())
        except ValueError:
            values = []
        values = values[:4] if poses else values
        if len(values) < 4 or len(values) % 2 or (len(values) > 4 and len(values) < 6) or not number.is_integer():
            care.count("lines that are neither a box nor an outline, left out", where)
            continue
        each = Line(int(number), _box(values) if len(values) == 4 else _around(values))
        if each in found:
            care.count("annotations that are there twice, left out", where)
        else:
            found.append(each)
    return found


def _box(values: list[float]) -> Edges:
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(values: list[float]) -> Edges:
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
