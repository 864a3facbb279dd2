"""What is found in a picture, in the picture as it came: its coordinates, its drawing, its files."""

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.image import read_image_size
from tfx_finetune.types.components import Modality
from tfx_finetune.types.localization import IGNORE_INDEX
from tfx_finetune.types.task import Task


def to_original_pixels(output: np.ndarray, raw: bytes, modality: Modality) -> np.ndarray:
    """What `Task.read` gave of a prepared picture, in pixels of the picture that came.

    Args:
        found: Boxes (n, 6), or the classes of pixels, uint8 (side, side).
        raw: The encoded picture.
        modality: How it was prepared.
    """
    if modality.letterbox is None:
        raise ValueError("pictures alone have places")
    shape = read_image_size(raw)
    scale, offset = (np.asarray(part) for part in modality.letterbox(tf.constant(shape))[:2])
    if output.dtype == np.uint8:
        return _mask_to_original(output, shape, scale, offset)
    corners = (output[:, :4] - np.tile(offset[::-1], 2)) / np.tile(scale[::-1], 2)
    limits = np.tile(np.array(shape[::-1], np.float32), 2)
    return np.concatenate([np.clip(corners, 0, limits), output[:, 4:]], 1)


def _mask_to_original(mask: np.ndarray, shape: tuple[int, int], scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The class of each pixel of the picture: that of the pixel where its centre lies; untold where it was cut off."""
    places = [np.floor((np.arange(shape[axis]) + 0.5) * scale[axis] + offset[axis]).astype(int) for axis in (0, 1)]
    rows, columns = (np.clip(at, 0, len(mask) - 1) for at in places)
    found: np.ndarray = mask[rows[:, None], columns[None, :]]
    outside = [(at < 0) | (at >= len(mask)) for at in places]
    found[outside[0]] = IGNORE_INDEX
    found[:, outside[1]] = IGNORE_INDEX
    return found


def decode_pixels(raw: bytes) -> np.ndarray:
    """An encoded picture as a person sees it, uint8 (height, width, 3), what is transparent white."""
    with Image.open(io.BytesIO(raw)) as image:
        seen = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return np.asarray(Image.alpha_composite(white, seen).convert("RGB"))


class DrawingWriter:
    """A folder of pictures with what heads found drawn into them.

    Args:
        folder: Made where it is not there.
        tasks: Heads by name.

    Raises:
        UserError: The model finds nothing in pictures, or the folder cannot be written.
    """

    def __init__(self, folder: str, tasks: Mapping[str, Task]) -> None:
        self._heads = {head: task.localization for head, task in tasks.items() if task.localization}
        if not self._heads:
            raise UserError("a model that finds nothing in pictures draws none", got=f"--save_pictures={folder}")
        self._folder = files.make_writable_folder(Path(folder), "pictures")
        self._name_counts = Counter[str]()

    def save(self, name: str, raw: bytes, outputs: Mapping[str, np.ndarray]) -> None:
        """Writes `<name>.png`, and masks as `<name>.mask.png`; the second of a name is called `<name>-2`, and so on.

        Args:
            name: Of the picture; of several heads the files have that of the head behind it.
            raw: The encoded picture.
            found: What heads found, in pixels of this picture.
        """
        self._name_counts[name] += 1
        name = name if self._name_counts[name] == 1 else f"{name}-{self._name_counts[name]}"
        for head, places in self._heads.items():
            stem = f"{name}.{head}" if len(self._heads) > 1 else name
            Image.fromarray(places.draw(decode_pixels(raw), outputs[head], False)).save(self._folder / f"{stem}.png")
            if outputs[head].dtype == np.uint8:
                Image.fromarray(outputs[head]).save(self._folder / f"{stem}.mask.png")
