"""Boxes and masks in pixels of the original image, and images with them drawn in."""

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
    """Convert the output of `Task.postprocess` to pixels of the original image.

    Args:
        output: Boxes (n, 6) with score and class, or a mask, uint8 (side, side).
        raw: Encoded image.
        modality: Modality that prepared the image.
    """
    if modality.letterbox is None:
        raise ValueError("only images have a letterbox")
    shape = read_image_size(raw)
    scale, offset = (np.asarray(values) for values in modality.letterbox(tf.constant(shape))[:2])
    if output.dtype == np.uint8:
        return _mask_to_original(output, shape, scale, offset)
    corners = (output[:, :4] - np.tile(offset[::-1], 2)) / np.tile(scale[::-1], 2)
    limits = np.tile(np.array(shape[::-1], np.float32), 2)
    return np.concatenate([np.clip(corners, 0, limits), output[:, 4:]], 1)


def _mask_to_original(mask: np.ndarray, shape: tuple[int, int], scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the mask in the size of the original image; `IGNORE_INDEX` where the image was cropped."""
    positions = [np.floor((np.arange(shape[axis]) + 0.5) * scale[axis] + offset[axis]).astype(int) for axis in (0, 1)]
    rows, columns = (np.clip(position, 0, len(mask) - 1) for position in positions)
    original_mask: np.ndarray = mask[rows[:, None], columns[None, :]]
    outside_rows, outside_columns = ((position < 0) | (position >= len(mask)) for position in positions)
    original_mask[outside_rows] = IGNORE_INDEX
    original_mask[:, outside_columns] = IGNORE_INDEX
    return original_mask


def decode_pixels(raw: bytes) -> np.ndarray:
    """Decode an image to uint8 (height, width, 3), upright and with transparent pixels on white."""
    with Image.open(io.BytesIO(raw)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


class DrawingWriter:
    """Writer of images with predicted boxes and masks.

    Args:
        folder: Folder of the images, created if necessary.
        tasks: Tasks by head.

    Raises:
        UserError: If the model has no detection or segmentation head, or the folder is not writable.
    """

    def __init__(self, folder: str, tasks: Mapping[str, Task]) -> None:
        self._heads = {head: task.localization for head, task in tasks.items() if task.localization}
        if not self._heads:
            message = "--save_pictures needs a model with a detection or segmentation head"
            raise UserError(message, got=f"heads {', '.join(tasks)}")
        self._folder = files.make_writable_folder(Path(folder), "pictures")
        self._name_counts = Counter[str]()

    def save(self, name: str, raw: bytes, outputs: Mapping[str, np.ndarray]) -> None:
        """Write `<name>.png`, and masks as `<name>.mask.png`; the second image of a name is called `<name>-2`.

        Args:
            name: Name of the image. With several heads, the files are called `<name>.<head>.png`.
            raw: Encoded image.
            outputs: Predictions by head, in pixels of the image.
        """
        self._name_counts[name] += 1
        name = name if self._name_counts[name] == 1 else f"{name}-{self._name_counts[name]}"
        for head, target in self._heads.items():
            stem = f"{name}.{head}" if len(self._heads) > 1 else name
            Image.fromarray(target.draw(decode_pixels(raw), outputs[head], False)).save(self._folder / f"{stem}.png")
            if outputs[head].dtype == np.uint8:
                Image.fromarray(outputs[head]).save(self._folder / f"{stem}.mask.png")
