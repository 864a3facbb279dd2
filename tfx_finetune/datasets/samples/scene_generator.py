"""Scenes of things cut out and laid over photographs, with what can be seen of each; NumPy and Pillow alone.

The method is that of Dwibedi et al., Cut, Paste and Learn (arXiv 1708.01642), edges blended by the cut-outs' own alpha.
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
"""Of alpha: a pixel above is one of the thing."""


class Scene(NamedTuple):
    """A picture, whose things are known to the pixel.

    picture: uint8 (side, side, 3). instances: uint8 (side, side), 0 where the photograph is seen, n where the nth of
    `objects` is. The box of each object is the extent of these pixels.
    """

    image: np.ndarray
    instances: np.ndarray
    objects: list[Object]


@dataclass(frozen=True)
class SceneGenerator:
    """What the scenes of a split are made of, and how.

    Attributes:
        things: Files with alpha, by class; each class is equally frequent.
        photographs: Files of the backgrounds.
        side: Of the square scenes, in pixels.
        objects: Fewest and most things in a scene.
        scale: Range of a thing's longer side as a share of the scene's; all between are equally likely on a logarithmic
            scale. Nothing is enlarged more than twofold.
        degrees: Most that a thing is turned, in either direction.
        min_visible: A thing of which a smaller share is left uncovered by later ones is a crowd.
        seed: Together with its number, what a scene is drawn from.
    """

    things: Mapping[str, tuple[Path, ...]]
    photographs: tuple[Path, ...]
    side: int
    objects: tuple[int, int]
    scale: tuple[float, float]
    degrees: float
    min_visible: float
    seed: tuple[int, ...]

    def make_scene(self, number: int) -> Scene:
        """Makes one scene, the same whenever and wherever it is made."""
        rng = np.random.default_rng([*self.seed, number])
        picture = _sample_background(self.photographs[rng.integers(len(self.photographs))], self.side, rng)
        instances = np.zeros((self.side, self.side), np.uint8)
        labels, areas = [], []
        for place in range(1, 1 + rng.integers(self.objects[0], self.objects[1] + 1)):
            labels.append(sorted(self.things)[rng.integers(len(self.things))])
            files = self.things[labels[-1]]
            layer = self._make_layer(files[rng.integers(len(files))], rng)
            areas.append(_paste(layer, picture, instances, place, rng))
        seen, objects = np.zeros_like(instances), []
        for place, (label, area) in enumerate(zip(labels, areas, strict=True), 1):
            visible = instances == place
            if visible.any():
                objects.append(
                    Object(label, *_compute_relative_box(visible), bool(visible.sum() < self.min_visible * area))
                )
                seen[visible] = len(objects)
        return Scene(np.rint(picture).astype(np.uint8), seen, objects)

    def _make_layer(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        """A thing resized, turned and perhaps mirrored, uint8 (height, width, 4)."""
        thing = load_cut_out(path)
        low, high = (math.log(share) for share in self.scale)
        longer = math.exp(rng.uniform(low, high)) * self.side
        factor = min(longer / max(thing.size), 2.0)
        size = [max(round(length * factor), 1) for length in thing.size]
        if rng.random() < 0.5:
            thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        angle = rng.uniform(-self.degrees, self.degrees)
        turned = thing.resize(size, Image.Resampling.LANCZOS).rotate(angle, Image.Resampling.BICUBIC, expand=True)
        turned = turned.crop(turned.getchannel("A").getbbox())
        # Turned, a long thing may be longer than a scene that it filled before.
        turned.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        return np.asarray(turned)


@functools.lru_cache(maxsize=1024)
def load_cut_out(path: Path) -> Image.Image:
    """A thing with its alpha (RGBA), cut to the pixels that are its own and the soft ones around them."""
    with Image.open(path) as picture:
        thing = picture.convert("RGBA")
    box = thing.getchannel("A").point(lambda value: 255 * (value > _ALPHA_THRESHOLD)).getbbox() or (0, 0, *thing.size)
    left, top, right, bottom = box
    return thing.crop((max(left - 1, 0), max(top - 1, 0), min(right + 1, thing.width), min(bottom + 1, thing.height)))


def is_cut_out(path: Path) -> bool:
    """Whether a picture has a real outline: not a full rectangle, not a few specks, and hardly translucent."""
    with Image.open(path) as picture:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    solid = alpha > _ALPHA_THRESHOLD
    if not solid.any():
        return False
    left, top, right, bottom = _compute_relative_box(solid)
    filled = solid.mean() / ((right - left) * (bottom - top))
    return bool(0.1 < filled < 0.95 and solid.sum() > 0.8 * (alpha > 25).sum())


def clear_caches() -> None:
    """Gives back the memory of the files that were read."""
    load_cut_out.cache_clear()
    _load_photograph.cache_clear()


def _compute_relative_box(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the true ones of (height, width), in shares."""
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    height, width = pixels.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


@functools.lru_cache(maxsize=128)
def _load_photograph(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _sample_background(path: Path, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, perhaps mirrored, its colours a little changed, float32 (side, side, 3)."""
    photograph = _load_photograph(path)
    length = rng.uniform(0.6, 1) * min(photograph.size)
    left, top = (rng.uniform(0, whole - length) for whole in photograph.size)
    box = (left, top, left + length, top + length)
    cropped = photograph.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gains = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
    return np.minimum(np.asarray(cropped, np.float32) * gains.astype(np.float32), 255)


def _paste(
    layer: np.ndarray, image: np.ndarray, instances: np.ndarray, instance_id: int, rng: np.random.Generator
) -> int:
    """Lays a thing over a scene, wholly inside of it; returns how many pixels are its own."""
    height, width = layer.shape[:2]
    top, left = (
        int(rng.integers(whole - own + 1)) for whole, own in zip(instances.shape, (height, width), strict=True)
    )
    window = slice(top, top + height), slice(left, left + width)
    alpha = layer[..., 3:].astype(np.float32) / 255
    image[window] = layer[..., :3] * alpha + image[window] * (1 - alpha)
    solid = layer[..., 3] > _ALPHA_THRESHOLD
    instances[window][solid] = instance_id
    return int(solid.sum())
