"""Tests of weight merging against arithmetic by hand."""

import numpy as np
import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.training.merging import MERGES, trim

VECTORS = np.array([[4, -1, 0, 2, -3], [-1, -2, 5, 1, -6]], np.float32)


def combine(spec):
    return MERGES.build(parse_spec(spec)).combine(VECTORS)


def test_average_is_the_mean_of_the_task_vectors():
    """The mean is added with scale 1."""
    assert combine("average()").tolist() == [1.5, -1.5, 2.5, 1.5, -4.5]
    assert MERGES.build(parse_spec("average()")).scale == 1


def test_task_arithmetic_is_the_sum_of_the_task_vectors():
    """The scale is an option; 0 means that validation samples select it."""
    assert combine("task_arithmetic()").tolist() == [3, -3, 5, 3, -9]
    scales = [MERGES.build(parse_spec(spec)).scale for spec in ("task_arithmetic()", "task_arithmetic(scale=0.3)")]
    assert scales == [0, 0.3]


@pytest.mark.parametrize(
    ("density", "trimmed"),
    [(0.2, [4, 0, 0, 0, 0]), (0.4, [4, 0, 0, 0, -3]), (0.6, [4, 0, 0, 2, -3]), (1, [4, -1, 0, 2, -3])],
)
def test_trim_keeps_the_largest_magnitudes(density, trimmed):
    """All other values become 0."""
    assert trim(VECTORS[0], density).tolist() == trimmed


def test_ties_averages_trimmed_vectors():
    """Three of five values remain: 4 0 0 2 -3 and 0 -2 5 0 -6. The signs of their sums are + - + + -; all agree."""
    assert combine("ties(density=0.6)").tolist() == [4, -2, 5, 2, -4.5]


def test_ties_omits_values_with_the_other_sign():
    """Without trimming, the sum of the first column is 3: -1 has the other sign and is not averaged."""
    assert combine("ties(density=1)").tolist() == [4, -1.5, 5, 1.5, -4.5]


def test_ties_is_zero_if_signs_balance():
    """A sum of 0 elects no sign."""
    vectors = np.array([[1, 2], [-1, 4]], np.float32)
    assert MERGES.build(parse_spec("ties(density=1)")).combine(vectors).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ties(density=0)", "density of ties() is out of range: 0"),
        ("ties(density=1.5)", "density of ties() is out of range: 1.5"),
        ("task_arithmetic(scale=-1)", "Scale of a merge is out of range: -1"),
        ("mean()", "Unknown merge: mean"),
        ("average(scale=1)", "Unknown option of merge average: scale"),
    ],
)
def test_invalid_specs_raise_an_error(spec, message):
    """The error is one line."""
    assert message in complaint(combine, spec)
