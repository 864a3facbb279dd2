"""The width and height in which annotations of a picture are, and how it lies in its file."""

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY
from tfx_finetune.ops.exif import read_image_header

_ASPECT_TOLERANCE = 0.02
_MAX_PIXELS = 4e8
# Of each EXIF orientation that exchanges width and height, where a point of the file comes to stand, in shares.
_POINT_TRANSFORMS = {
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
_MASK_TRANSPOSES = {
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

    def normalize_box(self, edges: BoxXYXY) -> BoxXYXY:
        """Pixels of what annotations are made on -> shares of the picture as a person sees it; order of corners stays.

        A box in the wrong order stays so, for `care.mended` to find it, but where the picture is turned.
        """
        left, top, right, bottom = (
            value / size for value, size in zip(edges, (self.width, self.height) * 2, strict=True)
        )
        if self.orientation not in _POINT_TRANSFORMS or not all(map(math.isfinite, edges)):
            return left, top, right, bottom
        turn = _POINT_TRANSFORMS[self.orientation]
        (x, y), (z, w) = turn(left, top), turn(right, bottom)
        return min(x, z), min(y, w), max(x, z), max(y, w)

    def turn_upright(self, mask: Image.Image) -> Image.Image:
        """A mask of what annotations are made on, as a person sees the picture."""
        return mask.transpose(_MASK_TRANSPOSES[self.orientation]) if self.orientation in _MASK_TRANSPOSES else mask


def make_annotation_frame(
    path: Path, stated_size: tuple[float, float] | None, issues: AnnotationIssues
) -> Frame | None:
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
    found = read_image_header(path)
    if stated_size and not (min(stated_size) >= 1 and stated_size[0] * stated_size[1] <= _MAX_PIXELS):
        issues.count("widths and heights that no picture has, taken from the picture", str(path))
        stated_size = None
    if stated_size is None:
        return Frame(found.width, found.height) if found else None
    if found is None or has_same_aspect_ratio(stated_size, found[:2]):
        return Frame(*stated_size)
    if found.orientation in _POINT_TRANSFORMS and has_same_aspect_ratio(stated_size, (found.height, found.width)):
        issues.count("pictures annotated as they lie in their file, not as they are shown; turned", str(path))
        return Frame(*stated_size, found.orientation)
    issues.count("pictures of another shape than their annotations say", str(path))
    return Frame(*stated_size)


def has_same_aspect_ratio(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two widths and heights are of one shape, within what rounding does to it."""
    off = abs(first[0] * second[1] - first[1] * second[0])
    return off <= max(_ASPECT_TOLERANCE * first[0] * second[1], 1.5 * max(*first, *second))
