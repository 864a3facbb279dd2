"""Layer 1: targets that say where in a picture something is, and how a picture lies in what a model sees of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from tfx_finetune.contracts import Tensor

UNTOLD = 255
"""Value of a mask where nothing is learned and nothing is scored."""


class Lay(NamedTuple):
    """How a picture lies in the prepared one, a square of `side` pixels: a point at (y, x) pixels comes to
    (y, x) * scale + offset, each (2,).
    """

    scale: Tensor
    offset: Tensor
    side: int


@dataclass(frozen=True)
class Places:
    """What makes a target that moves with its picture. `read` and `encode` are TensorFlow operations.

    Attributes:
        levels: What the head sees of `Features.pyramid`, from fine to coarse, such as P3, P4, P5.
        read: (raw column, decoded picture's height and width (2,)) -> what augments move beside the picture: `mask`
            uint8 (height, width, 1); or `boxes` float32 (n, 4) of left, top, right, bottom in shares of the picture's
            width and height, `classes` int32 (n,), and `crowd` bool (n,), of what is neither learned nor scored.
        encode: (what `read` gave, moved; the picture's height and width then, (2,); how it lies) -> target.
        examine: Raw column -> the classes in it, joined by `LABEL_SEPARATOR`, and why it cannot be used, or nothing.
        draw: (prepared pixels (side, side, channels), a target, or what `Task.read` gave) -> drawn pixels.
    """

    levels: tuple[str, ...]
    read: Callable[[Tensor, Tensor], dict[str, Tensor]]
    encode: Callable[[dict[str, Tensor], Tensor, Lay], Tensor]
    examine: Callable[[bytes], tuple[str, str]]
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray]
