"""Soups and interpolation on a parabola, where the best point is known; which epochs are chosen, and kept for that."""

import numpy as np
import pytest

from tfx_finetune.training.weight_averaging import (
    greedy_soup,
    interpolate,
    rank_epochs,
    reachable_epochs,
    standard_error,
)


def judge(best):
    """The closer to `best` the better, in tenths, as accuracies of small sets are steps."""
    return lambda weights: -round(abs(float(weights[0][0]) - best), 1)


def at(*values):
    return [[np.array([value])] for value in values]


def test_soup_takes_what_does_not_harm():
    """6 is nearest to 5 alone, 4 makes the mean exact, 9 would spoil it and is left out, 5 changes nothing."""
    soup, count, score = greedy_soup(at(6.0, 4.0, 9.0, 5.0), judge(5.0), 0.0)
    assert (count, score) == (3, 0.0)
    assert np.isclose(soup[0][0], 5.0)


def test_soup_of_one():
    """A single good epoch stays as it is."""
    soup, count, score = greedy_soup(at(5.0, 9.0), judge(5.0), 0.0)
    assert (count, float(soup[0][0]), score) == (1, 5.0, 0.0)


def test_interpolation_finds_the_best_tenth():
    """Between 0 and 10 the best is where it is, ends included."""
    start, tuned = at(0.0, 10.0)
    for best, share in ((3.0, 0.3), (10.0, 1.0), (99.0, 1.0), (0.0, 0.0), (-5.0, 0.0)):
        weights, found, score = interpolate(start, tuned, judge(best)(tuned), judge(best), 0.0)
        assert np.isclose(found, share)
        assert score == judge(best)(weights)
        assert np.isclose(weights[0][0], 10 * share)


def test_interpolation_keeps_what_was_tuned_where_nothing_is_better():
    """A flat score moves nothing."""
    start, tuned = at(0.0, 10.0)
    assert interpolate(start, tuned, 0.5, lambda weights: 0.5, 0.0)[1:] == (1.0, 0.5)


def test_a_margin_decides_for_more_and_longer_training():
    """From 5 to the mean of 5 and 9 is a fall by 2; from 10 to 7 a rise by 3."""
    assert greedy_soup(at(5.0, 9.0), judge(5.0), 1.9)[1] == 1
    assert greedy_soup(at(5.0, 9.0), judge(5.0), 2.1)[1] == 2
    start, tuned = at(0.0, 10.0)
    assert np.isclose(interpolate(start, tuned, -3.0, judge(7.0), 2.9)[1], 0.7)
    assert interpolate(start, tuned, -3.0, judge(7.0), 3.1)[1] == 1.0


def test_many_small_falls_are_a_large_one():
    """Each takes 0.5 more than the one before: a soup is compared with the best of those before it."""
    fall = dict(zip((5.0, 5.5, 6.0, 6.5), (0.9, 0.87, 0.84, 0.81), strict=True))
    assert greedy_soup(at(5.0, 6.0, 7.0, 8.0), lambda weights: fall[round(float(weights[0][0]), 1)], 0.07)[1] == 3


@pytest.mark.parametrize(
    ("margin", "order"),
    [(0.0, [1, 2, 3, 4, 0]), (0.04, [3, 2, 1, 4, 0]), (0.11, [4, 3, 2, 1, 0]), (1, [4, 3, 2, 1, 0])],
)
def test_later_epochs_are_preferred_within_the_margin(margin, order):
    """Epoch 2 is best by 0.01; the last is 0.1 behind it and the first 0.3."""
    assert rank_epochs([0.6, 0.9, 0.89, 0.87, 0.8], margin) == order


@pytest.mark.parametrize("seed", range(20))
def test_every_epoch_that_is_wanted_in_the_end_was_kept(seed):
    """What is still open after each epoch has all that the end may ask for, and no more."""
    rng = np.random.default_rng(seed)
    scores, most = list(rng.integers(0, 8, 12) / 8), int(rng.integers(1, 5))
    kept = set()
    for epochs in range(1, len(scores) + 1):
        kept = (kept | {epochs - 1}) & set(reachable_epochs(scores[:epochs], most))
    for margin in (0.0, 0.1, 0.2, 0.5, 1.0):
        assert set(rank_epochs(scores, margin)[:most]) <= kept
    assert kept == {epoch for margin in np.linspace(0, 1, 101) for epoch in rank_epochs(scores, margin)[:most]}


def test_the_standard_error_is_that_of_a_share_and_no_mean_has_more():
    """Of 0.8 over 100 samples it is 0.04, by hand; scores from 0 to 1 of the same mean vary less."""
    assert standard_error(0.8, 100) == pytest.approx(0.04)
    assert standard_error(1.0, 5) == standard_error(0.0, 5) == standard_error(-np.inf, 5) == 0.0
    values = np.random.default_rng(0).beta(2, 5, 1000)
    assert values.std() / 1000**0.5 < standard_error(float(values.mean()), 1000)
