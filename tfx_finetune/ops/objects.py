"""Text format of the `objects` column: one line per object.

A line has six fields that are separated by tabs: class, left, top, right, bottom, crowd. The edges are fractions (0 to
1) of the width and height of the upright image. `crowd` is 1 for a region of several objects (COCO `iscrowd`), which is
neither trained nor scored, else 0. The text is empty for an image without objects.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tfx_finetune.ops.annotations import normalize_class_name


class Object(NamedTuple):
    """Object in an image: class, box and crowd flag.

    Attributes:
        label: Class name.
        left, top, right, bottom: Edges of the box as fractions of the image width and height, 0 to 1.
        crowd: True for a region of several objects, which is neither trained nor scored.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False


def format_objects(objects: Iterable[Object]) -> str:
    """Write objects as the text of an `objects` column.

    Examples:
        >>> format_objects([Object("cat", 0.25, 0.5, 0.75, 1.0)])
        'cat\\t0.25\\t0.5\\t0.75\\t1\\t0'
    """
    return "\n".join(
        "\t".join([normalize_class_name(item.label), *(f"{edge:.6g}" for edge in item[1:5]), str(int(item.crowd))])
        for item in objects
    )


def parse_objects(text: str) -> list[Object]:
    """Read the text of an `objects` column.

    Raises:
        ValueError: If a line does not have six fields, or if an edge is not a number.

    Examples:
        >>> parse_objects("cat\\t0.25\\t0.5\\t0.75\\t1\\t0")
        [Object(label='cat', left=0.25, top=0.5, right=0.75, bottom=1.0, crowd=False)]
    """
    objects = []
    for line in filter(None, text.split("\n")):
        label, *values = line.split("\t")
        if not label or len(values) != 5 or values[4] not in ("0", "1"):
            raise ValueError(f"not a line of class, left, top, right, bottom and crowd: {line!r}")
        left, top, right, bottom = map(float, values[:4])
        objects.append(Object(label, left, top, right, bottom, values[4] == "1"))
    return objects
