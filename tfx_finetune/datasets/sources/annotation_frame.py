"""Reference frame of image annotations: the image size that they assume, and an EXIF rotation still to be applied."""

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tfx_finetune.ops.annotations import AnnotationIssues, BoxXYXY
from tfx_finetune.ops.image import read_image_header

_ASPECT_TOLERANCE = 0.02
_MAX_PIXELS = 4e8
# Position of a point in the upright image, in fractions, by the EXIF orientations that swap width and height.
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


class AnnotationFrame(NamedTuple):
    """Coordinate frame of the annotations of an image.

    Attributes:
        width, height: Size in pixels of the image that was annotated.
        orientation: EXIF orientation that is still to be applied to the annotations; 1 for none.
    """

    width: float
    height: float
    orientation: int = 1

    def normalize_box(self, box: BoxXYXY) -> BoxXYXY:
        """Convert a box from pixels of the frame to fractions of the upright image.

        Swapped corners stay swapped for `repair_box`, unless the image is rotated.

        Examples:
            >>> AnnotationFrame(20, 10).normalize_box((2, 1, 12, 6))
            (0.1, 0.1, 0.6, 0.6)
        """
        left, top, right, bottom = (
            value / size for value, size in zip(box, (self.width, self.height) * 2, strict=True)
        )
        if self.orientation not in _POINT_TRANSFORMS or not all(map(math.isfinite, box)):
            return left, top, right, bottom
        transform = _POINT_TRANSFORMS[self.orientation]
        (x1, y1), (x2, y2) = transform(left, top), transform(right, bottom)
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def rotate_upright(mask: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation that swaps width and height to a mask; others leave it as it is.

    Args:
        mask: Mask of the stored image.
        orientation: int, 1 to 8.
    """
    return mask.transpose(_MASK_TRANSPOSES[orientation]) if orientation in _MASK_TRANSPOSES else mask


def make_annotation_frame(
    path: Path, stated_size: tuple[float, float] | None, issues: AnnotationIssues
) -> AnnotationFrame | None:
    """Determine the frame of the annotations of an image.

    Boxes keep their relative position if the image was resized after annotation. They are rotated if the stated size is
    that of the stored image and its EXIF orientation swaps width and height.

    Args:
        path: Image file.
        stated_size: Width and height in pixels that the annotations state, or None.
        issues: Receives a count for every mismatch.

    Returns:
        The frame, or None if neither the annotations nor the image file tell the size.
    """
    header = read_image_header(path)
    if stated_size and not (min(stated_size) >= 1 and stated_size[0] * stated_size[1] <= _MAX_PIXELS):
        issues.count("impossible image sizes, replaced by the size of the image file", str(path))
        stated_size = None
    if stated_size is None:
        return AnnotationFrame(header.width, header.height) if header else None
    if header is None or has_same_aspect_ratio(stated_size, header[:2]):
        return AnnotationFrame(*stated_size)
    if header.orientation in _POINT_TRANSFORMS and has_same_aspect_ratio(stated_size, (header.height, header.width)):
        issues.count("images annotated without their EXIF rotation, annotations rotated", str(path))
        return AnnotationFrame(*stated_size, header.orientation)
    issues.count("images whose aspect ratio differs from their annotations", str(path))
    return AnnotationFrame(*stated_size)


def has_same_aspect_ratio(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Return True if two sizes (width, height) have the same aspect ratio within the effect of rounding.

    Examples:
        >>> has_same_aspect_ratio((200, 100), (20, 10)), has_same_aspect_ratio((20, 20), (20, 10))
        (True, False)
    """
    difference = abs(first[0] * second[1] - first[1] * second[0])
    return difference <= max(_ASPECT_TOLERANCE * first[0] * second[1], 1.5 * max(*first, *second))
