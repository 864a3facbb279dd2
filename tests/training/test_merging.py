"""Arithmetic on weights, by hand."""

import numpy as np
import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.training.merging import MERGES, trim

VECTORS = np.array([[4, -1, 0, 2, -3], [-1, -2, 5, 1, -6]], np.float32)


def combined(spec):
    return MERGES.build(parse_spec(spec)).combine(VECTORS)


def test_average():
    """The mean of what was learned, added as a whole."""
    assert combined("average()").tolist() == [1.5, -1.5, 2.5, 1.5, -4.5]
    assert MERGES.build(parse_spec("average()")).scale == 1


def test_task_arithmetic():
    """The sum, at a scale that is given or to be chosen."""
    assert combined("task_arithmetic()").tolist() == [3, -3, 5, 3, -9]
    scales = [MERGES.build(parse_spec(spec)).scale for spec in ("task_arithmetic()", "task_arithmetic(scale=0.3)")]
    assert scales == [0, 0.3]


@pytest.mark.parametrize(
    ("density", "kept"),
    [(0.2, [4, 0, 0, 0, 0]), (0.4, [4, 0, 0, 0, -3]), (0.6, [4, 0, 0, 2, -3]), (1, [4, -1, 0, 2, -3])],
)
def test_what_is_trimmed(density, kept):
    """All but the numbers of the greatest size."""
    assert trim(VECTORS[0], density).tolist() == kept


def test_ties():
    """Of five numbers three are kept: 4 0 0 2 -3 and 0 -2 5 0 -6; the signs of their sums are + - + + -; all agree."""
    assert combined("ties(density=0.6)").tolist() == [4, -2, 5, 2, -4.5]


def test_ties_elects_a_sign():
    """With all numbers kept, the first column's sum is 3: -1 has another sign and is left out, not averaged."""
    assert combined("ties(density=1)").tolist() == [4, -1.5, 5, 1.5, -4.5]


def test_ties_where_nothing_agrees():
    """A sum of 0 elects nothing."""
    vectors = np.array([[1, 2], [-1, 4]], np.float32)
    assert MERGES.build(parse_spec("ties(density=1)")).combine(vectors).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ties(density=0)", "density of ties is out of range"),
        ("ties(density=1.5)", "density of ties is out of range"),
        ("task_arithmetic(scale=-1)", "the scale of a merge is out of range"),
        ("mean()", "unknown merge"),
        ("average(scale=1)", "unknown option of merge average"),
    ],
)
def test_what_is_no_merge(spec, said):
    """On one line."""
    assert said in complaint(combined, spec)
