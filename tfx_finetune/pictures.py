"""STATION: what is found in a picture, in the picture as it came: its coordinates, its drawing, its files."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tfx_finetune.contracts import Modality, Task
from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.places import UNTOLD
from tfx_finetune.upright import header


def size(picture: bytes | Path) -> tuple[int, int]:
    """Height and width of a picture, encoded or in a file, as a person sees it.

    Raises:
        OSError: It is none that can be read.
    """
    found = header(picture)
    if found is None:
        raise OSError("not a picture that can be read")
    return found.height, found.width


def in_original(found: np.ndarray, raw: bytes, modality: Modality) -> np.ndarray:
    """What `Task.read` gave of a prepared picture, in pixels of the picture that came.

    Args:
        found: Boxes (n, 6), or the classes of pixels, uint8 (side, side).
        raw: The encoded picture.
        modality: How it was prepared.
    """
    if modality.lay is None:
        raise ValueError("pictures alone have places")
    shape = size(raw)
    scale, offset = (np.asarray(part) for part in modality.lay(tf.constant(shape))[:2])
    if found.dtype == np.uint8:
        return _mask(found, shape, scale, offset)
    corners = (found[:, :4] - np.tile(offset[::-1], 2)) / np.tile(scale[::-1], 2)
    limits = np.tile(np.array(shape[::-1], np.float32), 2)
    return np.concatenate([np.clip(corners, 0, limits), found[:, 4:]], 1)


def _mask(mask: np.ndarray, shape: tuple[int, int], scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The class of each pixel of the picture: that of the pixel where its centre lies; untold where it was cut off."""
    places = [np.floor((np.arange(shape[axis]) + 0.5) * scale[axis] + offset[axis]).astype(int) for axis in (0, 1)]
    rows, columns = (np.clip(at, 0, len(mask) - 1) for at in places)
    found = mask[rows[:, None], columns[None, :]]
    outside = [(at < 0) | (at >= len(mask)) for at in places]
    found[outside[0]] = UNTOLD
    found[:, outside[1]] = UNTOLD
    return found


def pixels(raw: bytes) -> np.ndarray:
    """An encoded picture as a person sees it, uint8 (height, width, 3), what is transparent white."""
    with Image.open(io.BytesIO(raw)) as image:
        seen = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return np.asarray(Image.alpha_composite(white, seen).convert("RGB"))


def drawn_into(folder: str, tasks: Mapping[str, Task]) -> Path:
    """The folder for drawn pictures, made where it is not there.

    Raises:
        UserError: The model finds nothing in pictures, or the folder cannot be written.
    """
    if not any(task.places for task in tasks.values()):
        raise UserError("a model that finds nothing in pictures draws none", received=f"--save_pictures={folder}")
    return files.writable_folder(Path(folder), "pictures")


def save(folder: Path, name: str, raw: bytes, tasks: Mapping[str, Task], found: Mapping[str, np.ndarray]) -> None:
    """Writes a picture with what each head found drawn into it, `<name>.png`, and masks as `<name>.mask.png`.

    Args:
        folder: That of `drawn_into`.
        name: Of the picture; of several heads the files have that of the head behind it.
        raw: The encoded picture.
        tasks: Heads by name.
        found: What heads found, in pixels of this picture.
    """
    drawing = {head: task.places for head, task in tasks.items() if task.places}
    for head, places in drawing.items():
        stem = f"{name}.{head}" if len(drawing) > 1 else name
        Image.fromarray(places.draw(pixels(raw), found[head], False)).save(folder / f"{stem}.png")
        if found[head].dtype == np.uint8:
            Image.fromarray(found[head]).save(folder / f"{stem}.mask.png")
