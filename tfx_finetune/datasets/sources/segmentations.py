"""Segmentations of COCO files, polygons and run lengths (https://cocodataset.org/#format-data), and cached masks."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfx_finetune.core import assets, files
from tfx_finetune.ops.annotations import BoxXYXY, parse_numbers
from tfx_finetune.types.localization import IGNORE_INDEX

# Polygons with points farther outside, in multiples of the longer image side, are invalid: drawing them would take
# memory for all pixels in between.
_MAX_OFFSET = 10
_CACHE_VERSION = 1

Segmentation = list[list[float]] | list[int] | None
"""Polygons, each [x, y, x, y, ...] in pixels; or run lengths of background, object, background, ... by column."""


class Region(NamedTuple):
    """Region of a mask that one object covers.

    Attributes:
        value: Mask value of the region.
        segmentation: Shape of the object. If None, the box is filled with `IGNORE_INDEX`.
        box: Box of the object in pixels.
    """

    value: int
    segmentation: Segmentation
    box: BoxXYXY | None


def parse_polygons(segmentation: Any, width: int, height: int, normalized: bool = False) -> list[list[float]] | None:
    """Parse the polygons of a segmentation.

    Args:
        segmentation: Value of a COCO file.
        width, height: Size of the image in pixels.
        normalized: True if the boxes of the file are fractions of the image. Polygons without a coordinate above 1 are
            then converted to pixels.

    Returns:
        The polygons that have at least three points near the image, in pixels; None if `segmentation` is not a list.

    Examples:
        >>> parse_polygons([[2, 1, 12, 1, 12, 6], [2, 1, 12, 6]], 20, 10)
        [[2.0, 1.0, 12.0, 1.0, 12.0, 6.0]]
    """
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        return None
    candidates = [parse_numbers(points, len(points)) for points in segmentation if isinstance(points, Sequence)]
    max_coordinate = _MAX_OFFSET * max(width, height)
    polygons = [
        list(points)
        for points in candidates
        if points and len(points) >= 6 and not len(points) % 2 and all(abs(value) <= max_coordinate for value in points)
    ]
    if normalized and max((abs(value) for points in polygons for value in points), default=2.0) <= 1:
        size = (width, height)
        return [[value * size[axis % 2] for axis, value in enumerate(points)] for points in polygons]
    return polygons


def parse_rle(segmentation: Any, width: int, height: int) -> list[int] | None:
    """Parse the run lengths of a segmentation, compressed or not.

    The lengths are checked because pycocotools reads memory out of bounds for lengths that end too soon.

    Args:
        segmentation: Value of a COCO file: a mapping with `size` and `counts`.
        width, height: Size of the image in pixels.

    Returns:
        The run lengths, or None if they do not fill an image of this size.

    Examples:
        >>> parse_rle({"size": [2, 3], "counts": [2, 4]}, 3, 2), parse_rle({"size": [2, 3], "counts": [2]}, 3, 2)
        ([2, 4], None)
    """
    if not isinstance(segmentation, Mapping) or segmentation.get("size") != [height, width]:
        return None
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _decompress_rle(counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return counts if sum(counts) == width * height else None


def _decompress_rle(text: str) -> list[int] | None:
    """Decode compressed run lengths as `rleFrString` of COCO's maskApi.c does.

    Each character has five bits. From the third run on, the value is the difference from the run before the last one.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return None if shift else counts


def compute_bounding_box(segmentation: Segmentation, height: int) -> BoxXYXY | None:
    """Compute the bounding box of a segmentation in pixels; None if the segmentation is empty.

    Examples:
        >>> compute_bounding_box([[2, 1, 12, 1, 12, 6]], 10)
        (2.0, 1.0, 12.0, 6.0)
    """
    if not segmentation:
        return None
    if isinstance(segmentation[0], list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        return (*map(float, points.min(0)), *map(float, points.max(0)))  # type: ignore[return-value]
    indices = np.flatnonzero(_expand_rle(segmentation))
    if not len(indices):
        return None
    x, y = indices // height, indices % height
    return float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)


def draw_mask(regions: Sequence[Region], width: int, height: int) -> Image.Image:
    """Draw regions into a mask: ignored regions below all others, small regions above large ones."""
    shapes: list[tuple[bool, int, int, int, np.ndarray]] = []
    for region in regions:
        shape = _draw_region(region, width, height)
        value = region.value if region.segmentation else IGNORE_INDEX
        shapes.append((value != IGNORE_INDEX, -int(np.count_nonzero(shape)), len(shapes), value, shape))
    mask = np.zeros((height, width), np.uint8)
    for *_, value, shape in sorted(shapes, key=lambda entry: entry[:3]):
        mask[shape] = value
    return Image.fromarray(mask)


def _draw_region(region: Region, width: int, height: int) -> np.ndarray:
    """Draw a region as a bool array (height, width)."""
    from pycocotools import mask as coco_mask

    if not region.segmentation:
        shape = np.zeros((height, width), bool)
        if region.box:
            left, top = (max(math.floor(value), 0) for value in region.box[:2])
            shape[top : max(math.ceil(region.box[3]), 0), left : max(math.ceil(region.box[2]), 0)] = True
        return shape
    if not isinstance(region.segmentation[0], list):
        return _expand_rle(region.segmentation).reshape(width, height).T
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(region.segmentation, height, width))).astype(bool)


def _expand_rle(counts: Sequence[Any]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def cache_mask(key_parts: Any, draw: Callable[[], Image.Image]) -> str:
    """Return the path of a mask in the cache; draw and write the mask if it is not there.

    Args:
        key_parts: JSON values that determine the mask. The file is named by their hash.
        draw: Makes the mask, an image of one 8-bit channel.

    Raises:
        UserError: If the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([_CACHE_VERSION, key_parts]).encode()).hexdigest()
    path = assets.get_cache_dir() / "masks" / key[:2] / f"{key}.png"
    if not path.is_file():
        if not path.parent.is_dir():
            files.make_writable_folder(path.parent, "cache")
        with files.write_atomically(path) as partial:
            draw().save(partial, compress_level=1)
    return str(path)
