"""The width and height in which annotations of a picture are, and how it lies in its file."""

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tfx_finetune.ops.annotations import Care, Edges
from tfx_finetune.ops.exif import header

_ALIKE = 0.02
_MOST = 4e8
# Of each EXIF orientation that exchanges width and height, where a point of the file comes to stand, in shares.
_TURNS = {
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
_TRANSPOSED = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Frame(NamedTuple):
    """Width and height in pixels of what annotations are made on, and the EXIF orientation that is still to come."""

    width: float
    height: float
    orientation: int = 1

    def shares(self, edges: Edges) -> Edges:
        """Pixels of what annotations are made on -> shares of the picture as a person sees it; order of corners stays.

        A box in the wrong order stays so, for `care.mended` to find it, but where the picture is turned.
        """
        left, top, right, bottom = (
            value / size for value, size in zip(edges, (self.width, self.height) * 2, strict=True)
        )
        if self.orientation not in _TURNS or not all(map(math.isfinite, edges)):
            return left, top, right, bottom
        turn = _TURNS[self.orientation]
        (x, y), (z, w) = turn(left, top), turn(right, bottom)
        return min(x, z), min(y, w), max(x, z), max(y, w)

    def upright(self, mask: Image.Image) -> Image.Image:
        """A mask of what annotations are made on, as a person sees the picture."""
        return mask.transpose(_TRANSPOSED[self.orientation]) if self.orientation in _TRANSPOSED else mask


def frame(path: Path, stated: tuple[float, float] | None, care: Care) -> Frame | None:
    """What annotations of a picture are made on.

    Boxes stay where they are in a picture that was scaled since, and are turned with one that lies in its file as its
    width and height say, and is shown turned.

    Args:
        path: The picture.
        stated: Its width and height in pixels by the annotations, where they say it.
        care: What is odd is counted here.

    Returns:
        Nothing where nobody says how large the picture is.
    """
    found = header(path)
    if stated and not (min(stated) >= 1 and stated[0] * stated[1] <= _MOST):
        care.count("widths and heights that no picture has, taken from the picture", str(path))
        stated = None
    if stated is None:
        return Frame(found.width, found.height) if found else None
    if found is None or alike(stated, found[:2]):
        return Frame(*stated)
    if found.orientation in _TURNS and alike(stated, (found.height, found.width)):
        care.count("pictures annotated as they lie in their file, not as they are shown; turned", str(path))
        return Frame(*stated, found.orientation)
    care.count("pictures of another shape than their annotations say", str(path))
    return Frame(*stated)


def alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two widths and heights are of one shape, within what rounding does to it."""
    off = abs(one[0] * other[1] - one[1] * other[0])
    return off <= max(_ALIKE * one[0] * other[1], 1.5 * max(*one, *other))
