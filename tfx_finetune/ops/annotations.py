"""Checks and repairs of box annotations, with a count of every issue by file."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tfx_finetune.core import progress

BoxXYXY = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a box, as fractions of the image width and height unless stated otherwise."""

MIN_SIDE = 1e-6
"""Minimum side of a box, as a fraction of the image side. A box with a smaller side has no area."""
_MAX_LOGGED_FILES, _MAX_REPORTED_FILES = 3, 100


class AnnotationIssues:
    """Counts of annotation issues by kind and file.

    Examples:
        >>> issues = AnnotationIssues()
        >>> issues.count("boxes without area, left out", "a.xml")
        >>> issues.count("boxes without area, left out", "b.xml", times=2)
        >>> len(issues.list_issues())
        3
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def count(self, issue: str, file: str, times: int = 1) -> None:
        """Count an issue in a file.

        Args:
            issue: Kind of the issue in plural, such as `boxes without area, left out`.
            file: Name of the annotation file or image.
            times: int >= 1. Number of occurrences. Default 1.
        """
        counts_by_file = self._counts.setdefault(issue, {})
        counts_by_file[file] = counts_by_file.get(file, 0) + times

    def report(self) -> tuple[str, ...]:
        """Log every issue with its first 3 files, and return one line per issue with up to 100 files."""
        for issue in self._counts:
            progress.log(self._describe(issue, _MAX_LOGGED_FILES))
        return tuple(self._describe(issue, _MAX_REPORTED_FILES) for issue in self._counts)

    def list_issues(self) -> tuple[str, ...]:
        """Return the kind of every issue, repeated as often as it was counted."""
        return tuple(issue for issue, counts in self._counts.items() for _ in range(sum(counts.values())))

    def _describe(self, issue: str, max_files: int) -> str:
        counts_by_file = self._counts[issue]
        return f"{issue}: {sum(counts_by_file.values())} ({progress.shorten_list(counts_by_file, max_files)})"


def repair_box(box: BoxXYXY, issues: AnnotationIssues, file: str) -> BoxXYXY | None:
    """Order the corners of a box and clip it to the image.

    Args:
        box: Left, top, right and bottom as fractions of the image width and height.
        issues: Receives a count for every repair and every rejected box.
        file: Name of the annotation file, for the counts.

    Returns:
        The box within 0 to 1, or None if it is not finite, has no area or lies outside the image.

    Examples:
        >>> repair_box((0.5, 0.5, 0.25, 1.5), AnnotationIssues(), "a.xml")
        (0.25, 0.5, 0.5, 1.0)
    """
    if not all(map(math.isfinite, box)):
        issues.count("boxes with coordinates that are not finite, left out", file)
        return None
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    if min(right - left, bottom - top) < MIN_SIDE:
        issues.count("boxes without area, left out", file)
        return None
    clipped = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < MIN_SIDE:
        issues.count("boxes outside the image, left out", file)
        return None
    if (left, top) != box[:2]:
        issues.count("boxes with swapped corners, repaired", file)
    if max(abs(a - b) for a, b in zip(clipped, (left, top, right, bottom), strict=True)) > MIN_SIDE:
        issues.count("boxes beyond the image edge, clipped", file)
    return clipped


def are_normalized(boxes: Iterable[BoxXYXY]) -> bool:
    """Return True if no coordinate of the boxes exceeds 1, so that they are fractions of the image and not pixels.

    Args:
        boxes: Boxes of one file. Boxes with coordinates that are not finite are ignored.

    Returns:
        False if no box has finite coordinates.

    Examples:
        >>> are_normalized([(0.0, 0.25, 1.0, 0.5)]), are_normalized([(0.0, 10.0, 64.0, 32.0)])
        (True, False)
    """
    max_coordinate = max((max(map(abs, box)) for box in boxes if all(map(math.isfinite, box))), default=2.0)
    return max_coordinate <= 1.0 + MIN_SIDE


def parse_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Convert a sequence of numbers or numeric strings to floats.

    Args:
        values: Any value of a JSON or XML file.
        count: int. Required length of the sequence.

    Returns:
        `count` floats, or None if `values` is anything else.

    Examples:
        >>> parse_numbers(["1", 2.5], 2), parse_numbers(["1", "x"], 2), parse_numbers([1], 2)
        ((1.0, 2.5), None, None)
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return None
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError):
        return None


def normalize_class_name(name: Any) -> str:
    """Replace every run of white space in a class name by one space.

    Examples:
        >>> normalize_class_name(" traffic\\tlight ")
        'traffic light'
    """
    return " ".join(str(name).split())
