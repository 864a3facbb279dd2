"""Generator of scenes: cut-out objects pasted on photographs, with exact boxes and instance masks.

The method is Cut, Paste and Learn (Dwibedi et al., arXiv 1708.01642). Edges are blended by the alpha of the cut-outs.
Only NumPy and Pillow are used.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfx_finetune.ops.objects import Object

_ALPHA_THRESHOLD = 127
"""Alpha above which a pixel belongs to the object."""


class Scene(NamedTuple):
    """Image with its objects.

    Attributes:
        image: uint8 array (side, side, 3).
        instances: uint8 array (side, side): 0 for the photograph, n for the visible pixels of the nth object.
        objects: Objects; each box is the bounding box of the visible pixels.
    """

    image: np.ndarray
    instances: np.ndarray
    objects: list[Object]


class SceneOptions(NamedTuple):
    """Options of a scene.

    Attributes:
        side: int. Side of the square scene in pixels.
        objects: Minimum and maximum number of objects.
        scale: Range of the longer side of an object as a fraction of the side of the scene, sampled uniformly on a
            logarithmic scale. Objects are enlarged at most twofold.
        degrees: Maximum rotation of an object in either direction.
        min_visible: float, 0 to 1. An object with a smaller visible fraction is a crowd.
    """

    side: int
    objects: tuple[int, int]
    scale: tuple[float, float]
    degrees: float
    min_visible: float


@dataclass(frozen=True)
class SceneGenerator:
    """Generator of the scenes of a split.

    Attributes:
        cut_outs: Image files with alpha, by class. All classes are equally frequent.
        photographs: Image files of the backgrounds.
        options: Options of the scenes.
        seed: Seed; a scene depends on the seed and on its number.
    """

    cut_outs: Mapping[str, tuple[Path, ...]]
    photographs: tuple[Path, ...]
    options: SceneOptions
    seed: tuple[int, ...]

    def make_scene(self, number: int) -> Scene:
        """Make a scene; the same number always gives the same scene."""
        options = self.options
        rng = np.random.default_rng([*self.seed, number])
        image = _sample_background(self.photographs[rng.integers(len(self.photographs))], options.side, rng)
        pasted = np.zeros((options.side, options.side), np.uint8)
        labels, areas = [], []
        for index in range(1, 1 + rng.integers(options.objects[0], options.objects[1] + 1)):
            labels.append(sorted(self.cut_outs)[rng.integers(len(self.cut_outs))])
            files = self.cut_outs[labels[-1]]
            layer = self._make_layer(files[rng.integers(len(files))], rng)
            areas.append(_paste(layer, image, pasted, index, rng))
        instances, objects = np.zeros_like(pasted), []
        for index, (label, area) in enumerate(zip(labels, areas, strict=True), 1):
            visible = pasted == index
            if visible.any():
                crowd = bool(visible.sum() < options.min_visible * area)
                objects.append(Object(label, *_compute_relative_box(visible), crowd))
                instances[visible] = len(objects)
        return Scene(np.rint(image).astype(np.uint8), instances, objects)

    def _make_layer(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        """Resize, rotate and perhaps mirror a cut-out; return uint8 (height, width, 4)."""
        cut_out, options = load_cut_out(path), self.options
        low, high = (math.log(fraction) for fraction in options.scale)
        longer_side = math.exp(rng.uniform(low, high)) * options.side
        factor = min(longer_side / max(cut_out.size), 2.0)
        size = [max(round(length * factor), 1) for length in cut_out.size]
        if rng.random() < 0.5:
            cut_out = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        angle = rng.uniform(-options.degrees, options.degrees)
        layer = cut_out.resize(size, Image.Resampling.LANCZOS).rotate(angle, Image.Resampling.BICUBIC, expand=True)
        layer = layer.crop(layer.getchannel("A").getbbox())
        # Rotation may make a long object longer than the scene.
        layer.thumbnail((options.side, options.side), Image.Resampling.LANCZOS)
        return np.asarray(layer)


@functools.lru_cache(maxsize=1024)
def load_cut_out(path: Path) -> Image.Image:
    """Load an RGBA image, cropped to its solid pixels and a margin of one translucent pixel."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    box = image.getchannel("A").point(lambda value: 255 * (value > _ALPHA_THRESHOLD)).getbbox() or (0, 0, *image.size)
    left, top, right, bottom = box
    return image.crop((max(left - 1, 0), max(top - 1, 0), min(right + 1, image.width), min(bottom + 1, image.height)))


def is_cut_out(path: Path) -> bool:
    """Return True if an image has a clear outline: no full rectangle, no scattered pixels, hardly translucent."""
    with Image.open(path) as file:
        alpha = np.asarray(file.convert("RGBA"))[..., 3]
    solid = alpha > _ALPHA_THRESHOLD
    if not solid.any():
        return False
    left, top, right, bottom = _compute_relative_box(solid)
    fill_ratio = solid.mean() / ((right - left) * (bottom - top))
    return bool(0.1 < fill_ratio < 0.95 and solid.sum() > 0.8 * (alpha > 25).sum())


def clear_caches() -> None:
    """Free the memory of the images that were loaded."""
    load_cut_out.cache_clear()
    _load_photograph.cache_clear()


def _compute_relative_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a bool mask (height, width) as fractions."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


@functools.lru_cache(maxsize=128)
def _load_photograph(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _sample_background(path: Path, side: int, rng: np.random.Generator) -> np.ndarray:
    """Crop a random square of a photograph, perhaps mirrored, with jittered colors, float32 (side, side, 3)."""
    photograph = _load_photograph(path)
    length = rng.uniform(0.6, 1) * min(photograph.size)
    left, top = (rng.uniform(0, extent - length) for extent in photograph.size)
    box = (left, top, left + length, top + length)
    cropped = photograph.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gains = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
    return np.minimum(np.asarray(cropped, np.float32) * gains.astype(np.float32), 255)


def _paste(
    layer: np.ndarray, image: np.ndarray, instances: np.ndarray, instance_id: int, rng: np.random.Generator
) -> int:
    """Paste an object at a random position inside a scene, in place; return the number of its solid pixels."""
    height, width = layer.shape[:2]
    top, left = (
        int(rng.integers(side - extent + 1)) for side, extent in zip(instances.shape, (height, width), strict=True)
    )
    window = slice(top, top + height), slice(left, left + width)
    alpha = layer[..., 3:].astype(np.float32) / 255
    image[window] = layer[..., :3] * alpha + image[window] * (1 - alpha)
    solid = layer[..., 3] > _ALPHA_THRESHOLD
    instances[window][solid] = instance_id
    return int(solid.sum())
