"""Files that say what the values or colours of masks are: a class a line."""

import re
from pathlib import Path

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.annotations import normalize_class_name

CLASS_FILES = ("labelmap.txt", "classes.txt", "label_colors.txt")

Color = tuple[int, int, int]


def read_color_map(root: Path, file: str = "") -> dict[str, Color | None]:
    """Classes in order, which are the values 0, 1, ... of grey masks, and the colour of each in masks that have some.

    A line is `name`, `name r g b`, `r g b name`, or `name:r,g,b::` as CVAT writes it; what follows `#` is no class.

    Args:
        root: The folder of the data, where such a file may lie.
        file: Its path, where it is another one.

    Returns:
        Nothing where there is no such file.

    Raises:
        UserError: There is none of the name given, a line is none of these, or a class or colour is there twice.
    """
    place = (
        Path(file).expanduser()
        if file
        else next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    )
    if place is None:
        return {}
    try:
        lines = place.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError("cannot read the classes of masks", got=f"{place} ({error})") from None
    found: dict[str, Color | None] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        where = f"{place}, line {number}: {text}"
        name, colour = _parse_class(text, where)
        if name in found or (colour and colour in found.values()):
            raise UserError("a class or a colour that is there twice", got=where)
        found[name] = colour
    if len({colour is None for colour in found.values()}) > 1:
        raise UserError("some classes have a colour and some have none", got=place)
    if len(found) > 255:
        raise UserError("too many classes for masks", got=f"{place}: {len(found)}", expected="up to 255")
    return found


def _parse_class(text: str, where: str) -> tuple[str, Color | None]:
    name, *colour = (text.split(":")[0], *re.findall(r"\d+", text.split(":")[1])) if ":" in text else (text,)
    if ":" not in text:
        words = re.split(r"[\s,]+", text)
        if len(words) > 3 and all(word.isdigit() for word in words[-3:]):
            name, colour = " ".join(words[:-3]), words[-3:]
        elif len(words) > 3 and all(word.isdigit() for word in words[:3]):
            name, colour = " ".join(words[3:]), words[:3]
    values = tuple(map(int, colour))
    if not name.strip() or len(values) not in (0, 3) or max(values, default=0) > 255:
        raise UserError("not a class and its colour", got=where, expected="name, or name red green blue, of 0 to 255")
    return normalize_class_name(name), values or None  # type: ignore[return-value]
