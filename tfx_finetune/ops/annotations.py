"""Layer 1: annotations as people have them: what is mended or cannot be used is counted and said."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tfx_finetune.core import progress

BoxXYXY = tuple[float, float, float, float]
"""Left, top, right and bottom."""

MIN_SIDE = 1e-6
"""Sides of a box, in shares of its picture, below which it has no area."""
_MAX_LOGGED_FILES, _MAX_REPORTED_FILES = 3, 100
"""Files that a line of the terminal names, and one of the report."""


class AnnotationIssues:
    """What a source found in its annotations: how often, and in which of its files."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def count(self, issue: str, file: str, times: int = 1) -> None:
        """Adds a finding, such as `boxes without area, left out`, in a file."""
        places = self._counts.setdefault(issue, {})
        places[file] = places.get(file, 0) + times

    def report(self) -> tuple[str, ...]:
        """Says every finding with the first of its files, and returns them with all that a person may look through."""
        for what in self._counts:
            progress.log(self._describe(what, _MAX_LOGGED_FILES))
        return tuple(self._describe(what, _MAX_REPORTED_FILES) for what in self._counts)

    def list_issues(self) -> tuple[str, ...]:
        """Every finding, as often as it was counted."""
        return tuple(what for what, places in self._counts.items() for _ in range(sum(places.values())))

    def _describe(self, issue: str, max_files: int) -> str:
        places = self._counts[issue]
        return f"{issue}: {sum(places.values())} ({progress.shorten_list(places, max_files)})"


def repair_box(box: BoxXYXY, issues: AnnotationIssues, file: str) -> BoxXYXY | None:
    """A box inside its picture, or nothing where there is none.

    Args:
        edges: In shares of the picture's width and height.
        care: What was done is counted here.
        where: The file.
    """
    if not all(map(math.isfinite, box)):
        issues.count("boxes whose edges are no numbers, left out", file)
        return None
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    if min(right - left, bottom - top) < MIN_SIDE:
        issues.count("boxes without area, left out", file)
        return None
    inside = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < MIN_SIDE:
        issues.count("boxes outside of their picture, left out", file)
        return None
    if (left, top) != box[:2]:
        issues.count("boxes with their corners the other way round, put right", file)
    if max(abs(a - b) for a, b in zip(inside, (left, top, right, bottom), strict=True)) > MIN_SIDE:
        issues.count("boxes that reach beyond their picture, clipped", file)
    return inside


def are_normalized(boxes: Iterable[BoxXYXY]) -> bool:
    """Whether boxes that ought to be in pixels are in shares of their picture: none reaches beyond its first pixel."""
    most = max((max(map(abs, edges)) for edges in boxes if all(map(math.isfinite, edges))), default=2.0)
    return most <= 1.0 + MIN_SIDE


def parse_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """So many numbers, which files also have as texts; nothing where it is something else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return None
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError):
        return None


def normalize_class_name(name: Any) -> str:
    """A class as columns of objects have it: every white space is one blank."""
    return " ".join(str(name).split())
