"""Layer 1: how large a picture is as a person sees it, by the header of its file: EXIF may turn it."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


class ImageHeader(NamedTuple):
    """Of a picture's file: width and height as a person sees it, and its EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int


def read_image_header(picture: bytes | Path) -> ImageHeader | None:
    """Reads the header of a picture, encoded or in a file; nothing where that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the run has a limit of its own
            with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as opened:
                orientation = int(opened.getexif().get(ExifTags.Base.Orientation, 1))
                width, height = opened.size
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    return (
        ImageHeader(height, width, orientation)
        if orientation in TRANSPOSED_ORIENTATIONS
        else ImageHeader(width, height, orientation)
    )


def read_image_size(picture: bytes | Path) -> tuple[int, int]:
    """Height and width of a picture, encoded or in a file, as a person sees it.

    Raises:
        OSError: It is none that can be read.
    """
    found = read_image_header(picture)
    if found is None:
        raise OSError("not a picture that can be read")
    return found.height, found.width
