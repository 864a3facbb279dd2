"""Layer 1: the objects of a picture as the text of a column, a line each.

A line has, separated by tabs: the class, left, top, right and bottom in shares (0 to 1) of the width and height of the
picture as a person sees it, and 1 where it is a crowd: a region of several that is neither learned nor scored, else 0.
A picture without objects has an empty text.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Object(NamedTuple):
    """One thing in a picture: its class, its box in shares of the picture, and whether it is a crowd."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False


def format_objects(objects: Iterable[Object]) -> str:
    """The text of a column; blanks of any kind in a class become spaces."""
    return "\n".join(
        "\t".join([" ".join(each.label.split()), *(f"{value:.6g}" for value in each[1:5]), str(int(each.crowd))])
        for each in objects
    )


def parse_objects(text: str) -> list[Object]:
    """The objects of a column.

    Raises:
        ValueError: A line is not such as `written` writes; the message says which.
    """
    found = []
    for line in filter(None, text.split("\n")):
        label, *values = line.split("\t")
        if not label or len(values) != 5 or values[4] not in ("0", "1"):
            raise ValueError(f"not a line of class, left, top, right, bottom and crowd: {line!r}")
        left, top, right, bottom = map(float, values[:4])
        found.append(Object(label, left, top, right, bottom, values[4] == "1"))
    return found
