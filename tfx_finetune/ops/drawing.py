"""Drawing of labeled boxes and segmentation masks on images."""

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

# Fraction of the hue circle. Multiples of the golden angle are far apart for any number of classes.
_GOLDEN_ANGLE = 0.381966


class LabeledBox(NamedTuple):
    """Box to draw.

    Attributes:
        label: Text of the box, in front of the score.
        box: Left, top, right and bottom in pixels. The box may lie outside the image.
        score: float, 0 to 1, or None for a box of the ground truth. Default None.
        color: Color of frame and label, or None for black. Default None.
        is_dashed: True for a dashed frame, such as that of a crowd. Default False.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float | None = None
    color: Color | None = None
    is_dashed: bool = False


def make_palette(count: int) -> np.ndarray:
    """Return distinct colors for classes.

    Args:
        count: int >= 0. Number of classes. The first colors do not depend on it.

    Returns:
        uint8 (count, 3).

    Examples:
        >>> make_palette(2).tolist()
        [[242, 36, 36], [27, 178, 71]]
    """
    hues = [(index * _GOLDEN_ANGLE) % 1 for index in range(count)]
    values = [colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.7)[index % 2]) for index, hue in enumerate(hues)]
    return np.round(255 * np.reshape(values, (-1, 3))).astype(np.uint8)


def draw_boxes(pixels: np.ndarray, labeled_boxes: Iterable[LabeledBox]) -> np.ndarray:
    """Draw boxes with label and score above the box, or inside it if there is no room above.

    Args:
        pixels: uint8 (height, width, 1 or 3). Not modified.
        labeled_boxes: Boxes from back to front.

    Returns:
        uint8 (height, width, 3).
    """
    image = Image.fromarray(_to_rgb(pixels))
    draw = ImageDraw.Draw(image)
    line_width, font = max(1, round(max(image.size) / 200)), _load_font(max(9, round(max(image.size) / 28)))
    for item in labeled_boxes:
        color = item.color or (0, 0, 0)
        left, top, right, bottom = (round(edge) for edge in item.box)
        right, bottom = max(left, right), max(top, bottom)
        if item.is_dashed:
            _draw_dashed_box(draw, (left, top, right, bottom), color, line_width)
        else:
            draw.rectangle((left, top, right, bottom), outline=color, width=line_width)
        _draw_label(draw, (left, top), item.label + ("" if item.score is None else f" {item.score:.2f}"), color, font)
    return np.asarray(image)


def draw_mask(
    pixels: np.ndarray,
    mask: np.ndarray,
    colors: np.ndarray,
    transparent_classes: Collection[int] = (),
    opacity: float = 0.55,
) -> np.ndarray:
    """Blend the class colors of a segmentation mask with an image.

    Args:
        pixels: uint8 (height, width, 1 or 3). Not modified.
        mask: int (height, width) or (height, width, 1). Class index of each pixel; an index without a color leaves the
            pixel unchanged.
        colors: uint8 (classes, 3), such as those of `make_palette`.
        transparent_classes: Class indices that leave the pixel unchanged as well, such as that of the background.
        opacity: float, 0 to 1. Weight of the colors. Default 0.55.

    Returns:
        uint8 (height, width, 3).

    Examples:
        >>> image, mask = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 1]])
        >>> draw_mask(image, mask, np.array([[0, 0, 0], [200, 0, 0]]), [0], opacity=0.5).tolist()
        [[[100, 100, 100], [150, 50, 50]]]
    """
    image, classes = _to_rgb(pixels), mask.reshape(mask.shape[:2]).astype(np.int64)
    is_colored = (classes >= 0) & (classes < len(colors)) & ~np.isin(classes, list(transparent_classes))
    blended = image.copy()
    blended[is_colored] = np.round((1 - opacity) * image[is_colored] + opacity * colors[classes[is_colored]]).astype(
        np.uint8
    )
    return blended


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8))


def _draw_dashed_box(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: Color, line_width: int) -> None:
    left, top, right, bottom = box
    dash = 4 * line_width
    for x in range(left, right, 2 * dash):
        for y in (top, bottom):
            draw.line((x, y, min(x + dash, right), y), color, line_width)
    for y in range(top, bottom, 2 * dash):
        for x in (left, right):
            draw.line((x, y, x, min(y + dash, bottom)), color, line_width)


def _draw_label(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: Color, font: ImageFont.FreeTypeFont
) -> None:
    if not text.strip():
        return
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], draw.im.size[0] - width - 2))
    y = corner[1] - height - 2 if corner[1] >= height + 2 else max(0, corner[1])
    draw.rectangle((x, y, x + width + 2, y + height + 2), color)
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.text((x + 1, y), text, (0, 0, 0) if luma > 140 else (255, 255, 255), font)


@functools.cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with Matplotlib. It has no Chinese, Japanese or Korean characters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
