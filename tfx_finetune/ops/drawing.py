"""Layer 1: boxes with names, and masks, drawn on pixels."""

import colorsys
import functools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_GOLDEN_ANGLE = 0.381966  # of the circle of hues: those of any number of classes lie as far apart as they can


class LabeledBox(NamedTuple):
    """A box that is drawn.

    Attributes:
        label: What is written at it, before the score.
        box: Left, top, right and bottom in pixels.
        score: In [0, 1]; None for what is known and not found.
        colour: Of frame and name; None stands for black.
        dashed: Whether the frame is broken, as that of a crowd.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float | None = None
    color: Color | None = None
    is_dashed: bool = False


def make_palette(count: int) -> np.ndarray:
    """Colours of so many classes, uint8 (count, 3); those of the first do not depend on how many come after."""
    hues = [(place * _GOLDEN_ANGLE) % 1 for place in range(count)]
    values = [colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.7)[place % 2]) for place, hue in enumerate(hues)]
    return np.round(255 * np.reshape(values, (-1, 3))).astype(np.uint8)


def draw_boxes(pixels: np.ndarray, labeled_boxes: Iterable[LabeledBox]) -> np.ndarray:
    """A picture with boxes, each with its name and score above it, or inside where there is no room.

    Args:
        pixels: uint8 (height, width, channels), of 1 or 3 channels; it stays as it is.
        drawn: Later ones lie above earlier ones.

    Returns:
        uint8 (height, width, 3).
    """
    picture = Image.fromarray(_to_rgb(pixels))
    draw = ImageDraw.Draw(picture)
    thick, font = max(1, round(max(picture.size) / 200)), _load_font(max(9, round(max(picture.size) / 28)))
    for each in labeled_boxes:
        colour = each.color or (0, 0, 0)
        left, top, right, bottom = (round(value) for value in each.box)
        right, bottom = max(left, right), max(top, bottom)
        if each.is_dashed:
            _draw_dashed_box(draw, (left, top, right, bottom), colour, thick)
        else:
            draw.rectangle((left, top, right, bottom), outline=colour, width=thick)
        _draw_label(draw, (left, top), each.label + ("" if each.score is None else f" {each.score:.2f}"), colour, font)
    return np.asarray(picture)


def draw_mask(
    pixels: np.ndarray,
    mask: np.ndarray,
    colors: np.ndarray,
    transparent_classes: Collection[int] = (),
    opacity: float = 0.55,
) -> np.ndarray:
    """A picture under the colours of a mask.

    Args:
        pixels: uint8 (height, width, channels), of 1 or 3 channels; it stays as it is.
        mask: Place in `colours` of each pixel, (height, width) or (height, width, 1); what has none is left clear.
        colours: uint8 (classes, 3), as of `palette`.
        clear: Places that are left clear too, such as that of a background.
        opacity: Of the colours, in [0, 1].

    Returns:
        uint8 (height, width, 3).
    """
    picture, places = _to_rgb(pixels), mask.reshape(mask.shape[:2]).astype(np.int64)
    shown = (places >= 0) & (places < len(colors)) & ~np.isin(places, list(transparent_classes))
    found = picture.copy()
    found[shown] = np.round((1 - opacity) * picture[shown] + opacity * colors[places[shown]]).astype(np.uint8)
    return found


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels of three channels."""
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8))


def _draw_dashed_box(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: Color, thick: int) -> None:
    left, top, right, bottom = box
    dash = 4 * thick
    for x in range(left, right, 2 * dash):
        for y in (top, bottom):
            draw.line((x, y, min(x + dash, right), y), color, thick)
    for y in range(top, bottom, 2 * dash):
        for x in (left, right):
            draw.line((x, y, x, min(y + dash, bottom)), color, thick)


def _draw_label(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: Color, font: ImageFont.FreeTypeFont
) -> None:
    if not text.strip():
        return
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], draw.im.size[0] - width - 2))
    y = corner[1] - height - 2 if corner[1] >= height + 2 else max(0, corner[1])
    draw.rectangle((x, y, x + width + 2, y + height + 2), color)
    light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.text((x + 1, y), text, (0, 0, 0) if light > 140 else (255, 255, 255), font)


@functools.cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings: European, Arabic and more scripts, no Chinese, Japanese or Korean."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
