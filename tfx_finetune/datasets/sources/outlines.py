"""Outlines as COCO files have them: polygons and run lengths, https://cocodataset.org/#format-data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfx_finetune.ops.annotations import BoxXYXY, parse_numbers
from tfx_finetune.types.localization import IGNORE_INDEX

# Points so many times outside of their picture are no outline, and drawing them takes memory for every pixel between.
_MAX_OFFSET = 10


Segmentation = list[list[float]] | list[int] | None
"""Polygons, [x, y, x, y, ...] in pixels, or run lengths: of nothing, something, nothing, ... down the columns."""


class Region(NamedTuple):
    """What a mask shows of one object.

    value: The mask's value in it.
    outline: Where it is; where that is not known, its box is untold.
    edges: The box, in pixels.
    """

    value: int
    segmentation: Segmentation
    box: BoxXYXY | None


def parse_polygons(segmentation: Any, width: int, height: int, normalized: bool = False) -> list[list[float]] | None:
    """The polygons of an outline that have an inside, in pixels; nothing where it is something else.

    Args:
        outline: Of a COCO file.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        shares: Whether the boxes of the file are shares of it, as then its points may be.
    """
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        return None
    found = [parse_numbers(points, len(points)) for points in segmentation if isinstance(points, Sequence)]
    far = _MAX_OFFSET * max(width, height)
    kept = [
        list(points)
        for points in found
        if points and len(points) >= 6 and not len(points) % 2 and all(abs(value) <= far for value in points)
    ]
    if normalized and max((abs(value) for points in kept for value in points), default=2.0) <= 1:
        return [[value * (width, height)[place % 2] for place, value in enumerate(points)] for points in kept]
    return kept


def parse_rle(segmentation: Any, width: int, height: int) -> list[int] | None:
    """Run lengths that fill a picture, of counts as a list or as COCO compresses them; nothing where they do not.

    Checked here since pycocotools does not, and reads memory that is not its own for those that end too soon.
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
    """COCO's own code, `rleFrString` of its maskApi.c: five bits a letter, the change since the last but one."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
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
    """The box around an outline, in pixels; nothing where that is empty."""
    if not segmentation:
        return None
    if isinstance(segmentation[0], list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        return (*map(float, points.min(0)), *map(float, points.max(0)))  # type: ignore[return-value]
    places = np.flatnonzero(_expand_rle(segmentation))
    if not len(places):
        return None
    x, y = places // height, places % height
    return float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)


def draw_mask(regions: Sequence[Region], width: int, height: int) -> Image.Image:
    """A mask: what is untold below all else, small things above large ones."""
    shapes: list[tuple[bool, int, int, int, np.ndarray]] = []
    for region in regions:
        shape = _draw_region(region, width, height)
        value = region.value if region.segmentation else IGNORE_INDEX
        shapes.append((value != IGNORE_INDEX, -int(np.count_nonzero(shape)), len(shapes), value, shape))
    mask = np.zeros((height, width), np.uint8)
    for *_, value, shape in sorted(shapes, key=lambda each: each[:3]):
        mask[shape] = value
    return Image.fromarray(mask)


def _draw_region(region: Region, width: int, height: int) -> np.ndarray:
    """Where a region is, bool (height, width)."""
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
