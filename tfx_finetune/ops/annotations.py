"""Layer 1: annotations as people have them: what is mended or cannot be used is counted and said."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tfx_finetune.core import progress

Edges = tuple[float, float, float, float]
"""Left, top, right and bottom."""

LEAST = 1e-6
"""Sides of a box, in shares of its picture, below which it has no area."""
_SAID, _NOTED = 3, 100
"""Files that a line of the terminal names, and one of the report."""


class Care:
    """What a source found in its annotations: how often, and in which of its files."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {}

    def count(self, what: str, where: str, times: int = 1) -> None:
        """Adds a finding, such as `boxes without area, left out`, in a file."""
        places = self._found.setdefault(what, {})
        places[where] = places.get(where, 0) + times

    def told(self) -> tuple[str, ...]:
        """Says every finding with the first of its files, and returns them with all that a person may look through."""
        for what in self._found:
            progress.say(self._note(what, _SAID))
        return tuple(self._note(what, _NOTED) for what in self._found)

    def kinds(self) -> tuple[str, ...]:
        """Every finding, as often as it was counted."""
        return tuple(what for what, places in self._found.items() for _ in range(sum(places.values())))

    def _note(self, what: str, most: int) -> str:
        places = self._found[what]
        return f"{what}: {sum(places.values())} ({progress.some(places, most)})"


def mended(edges: Edges, care: Care, where: str) -> Edges | None:
    """A box inside its picture, or nothing where there is none.

    Args:
        edges: In shares of the picture's width and height.
        care: What was done is counted here.
        where: The file.
    """
    if not all(map(math.isfinite, edges)):
        care.count("boxes whose edges are no numbers, left out", where)
        return None
    left, right = sorted((edges[0], edges[2]))
    top, bottom = sorted((edges[1], edges[3]))
    if min(right - left, bottom - top) < LEAST:
        care.count("boxes without area, left out", where)
        return None
    inside = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < LEAST:
        care.count("boxes outside of their picture, left out", where)
        return None
    if (left, top) != edges[:2]:
        care.count("boxes with their corners the other way round, put right", where)
    if max(abs(a - b) for a, b in zip(inside, (left, top, right, bottom), strict=True)) > LEAST:
        care.count("boxes that reach beyond their picture, clipped", where)
    return inside


def are_shares(boxes: Iterable[Edges]) -> bool:
    """Whether boxes that ought to be in pixels are in shares of their picture: none reaches beyond its first pixel."""
    most = max((max(map(abs, edges)) for edges in boxes if all(map(math.isfinite, edges))), default=2.0)
    return most <= 1.0 + LEAST


def numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """So many numbers, which files also have as texts; nothing where it is something else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return None
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError):
        return None


def named(name: Any) -> str:
    """A class as columns of objects have it: every white space is one blank."""
    return " ".join(str(name).split())
