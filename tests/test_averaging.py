"""Soups and interpolation on a parabola, where the best point is known."""

import numpy as np

from tfx_finetune.averaging import greedy_soup, interpolate


def judge(best):
    """The closer to `best` the better, in tenths, as accuracies of small sets are steps."""
    return lambda weights: (-round(abs(float(weights[0][0]) - best), 1), -abs(float(weights[0][0]) - best))


def at(*values):
    return [[np.array([value])] for value in values]


def test_soup_takes_what_does_not_harm():
    """6 is nearest to 5 alone, 4 makes the mean exact, 9 would spoil it and is left out, 5 changes nothing."""
    soup, count = greedy_soup(at(6.0, 4.0, 9.0, 5.0), judge(5.0))
    assert count == 3
    assert np.isclose(soup[0][0], 5.0)


def test_soup_of_one():
    """A single good epoch stays as it is."""
    soup, count = greedy_soup(at(5.0, 9.0), judge(5.0))
    assert (count, float(soup[0][0])) == (1, 5.0)


def test_interpolation_finds_the_best_tenth():
    """Between 0 and 10 the best is where it is, ends included."""
    start, tuned = at(0.0, 10.0)
    for best, share in ((3.0, 0.3), (10.0, 1.0), (99.0, 1.0), (0.0, 0.0), (-5.0, 0.0)):
        weights, found = interpolate(start, tuned, judge(best))
        assert np.isclose(found, share)
        assert np.isclose(weights[0][0], 10 * share)


def test_interpolation_keeps_what_was_tuned_where_nothing_is_better():
    """A flat score moves nothing."""
    start, tuned = at(0.0, 10.0)
    assert interpolate(start, tuned, lambda weights: (0.5, -1.0))[1] == 1.0
