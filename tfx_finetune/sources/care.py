"""Annotations as people have them: what is mended or cannot be used is counted and said."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tfx_finetune.core import progress

Edges = tuple[float, float, float, float]
"""Left, top, right and bottom."""

_LEAST = 1e-6


class Care:
    """What a source found in its annotations: how often, and in which of its files."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {}

    def count(self, what: str, where: str, times: int = 1) -> None:
        """Adds a finding, such as `boxes without area, left out`, in a file."""
        places = self._found.setdefault(what, {})
        places[where] = places.get(where, 0) + times

    def told(self) -> tuple[str, ...]:
        """Says every finding, and returns what was said."""
        notes = [f"{what}: {sum(places.values())} ({progress.some(places, 3)})" for what, places in self._found.items()]
        for note in notes:
            progress.say(note)
        return tuple(notes)


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
    if min(right - left, bottom - top) < _LEAST:
        care.count("boxes without area, left out", where)
        return None
    inside = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < _LEAST:
        care.count("boxes outside of their picture, left out", where)
        return None
    if (left, top) != edges[:2]:
        care.count("boxes with their corners the other way round, put right", where)
    if max(abs(a - b) for a, b in zip(inside, (left, top, right, bottom), strict=True)) > _LEAST:
        care.count("boxes that reach beyond their picture, clipped", where)
    return inside


def are_shares(boxes: Iterable[Edges]) -> bool:
    """Whether boxes that ought to be in pixels are in shares of their picture: none reaches beyond its first pixel."""
    most = max((max(map(abs, edges)) for edges in boxes if all(map(math.isfinite, edges))), default=2.0)
    return most <= 1.0 + _LEAST


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
