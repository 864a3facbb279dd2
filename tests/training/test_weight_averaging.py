"""Tests of soups and interpolation on a parabola, whose best point is known, and of the selection of epochs."""

import numpy as np
import pytest

from tfx_finetune.training.weight_averaging import (
    greedy_soup,
    interpolate,
    rank_epochs,
    reachable_epochs,
    standard_error,
)


def make_score_fn(best):
    """Return a score that falls with the distance from `best`, rounded to tenths like accuracies of small sets."""
    return lambda weights: -round(abs(float(weights[0][0]) - best), 1)


def make_weights(*values):
    return [[np.array([value])] for value in values]


def test_soup_omits_candidates_that_lower_the_score():
    """From 6, adding 4 gives the mean 5; 9 would lower the score; 5 changes nothing."""
    soup, count, score = greedy_soup(make_weights(6.0, 4.0, 9.0, 5.0), make_score_fn(5.0), 0.0)
    assert (count, score) == (3, 0.0)
    assert np.isclose(soup[0][0], 5.0)


def test_soup_of_a_single_candidate():
    """The best candidate stays unchanged if no other one helps."""
    soup, count, score = greedy_soup(make_weights(5.0, 9.0), make_score_fn(5.0), 0.0)
    assert (count, float(soup[0][0]), score) == (1, 5.0, 0.0)


def test_interpolation_finds_the_best_tenth():
    """The best point between 0 and 10 is found, ends included."""
    initial, finetuned = make_weights(0.0, 10.0)
    for best, coefficient in ((3.0, 0.3), (10.0, 1.0), (99.0, 1.0), (0.0, 0.0), (-5.0, 0.0)):
        score_fn = make_score_fn(best)
        weights, result, score = interpolate(initial, finetuned, score_fn(finetuned), score_fn, 0.0)
        assert np.isclose(result, coefficient)
        assert score == score_fn(weights)
        assert np.isclose(weights[0][0], 10 * coefficient)


def test_interpolation_returns_the_finetuned_weights_for_equal_scores():
    """A constant score moves nothing."""
    initial, finetuned = make_weights(0.0, 10.0)
    assert interpolate(initial, finetuned, 0.5, lambda weights: 0.5, 0.0)[1:] == (1.0, 0.5)


def test_a_margin_favors_longer_training():
    """From 5 to the mean of 5 and 9, the score falls by 2; from 10 to 7, it rises by 3."""
    assert greedy_soup(make_weights(5.0, 9.0), make_score_fn(5.0), 1.9)[1] == 1
    assert greedy_soup(make_weights(5.0, 9.0), make_score_fn(5.0), 2.1)[1] == 2
    initial, finetuned = make_weights(0.0, 10.0)
    assert np.isclose(interpolate(initial, finetuned, -3.0, make_score_fn(7.0), 2.9)[1], 0.7)
    assert interpolate(initial, finetuned, -3.0, make_score_fn(7.0), 3.1)[1] == 1.0


def test_soup_compares_with_the_best_score_so_far():
    """Small drops add up: the third drop exceeds the margin below the best score."""
    scores = dict(zip((5.0, 5.5, 6.0, 6.5), (0.9, 0.87, 0.84, 0.81), strict=True))
    candidates = make_weights(5.0, 6.0, 7.0, 8.0)
    assert greedy_soup(candidates, lambda weights: scores[round(float(weights[0][0]), 1)], 0.07)[1] == 3


@pytest.mark.parametrize(
    ("margin", "order"),
    [(0.0, [1, 2, 3, 4, 0]), (0.04, [3, 2, 1, 4, 0]), (0.11, [4, 3, 2, 1, 0]), (1, [4, 3, 2, 1, 0])],
)
def test_later_epochs_are_preferred_within_the_margin(margin, order):
    """Epoch 1 is best by 0.01; the last one is 0.1 below it and the first one 0.3."""
    assert rank_epochs([0.6, 0.9, 0.89, 0.87, 0.8], margin) == order


@pytest.mark.parametrize("seed", range(20))
def test_reachable_epochs_are_those_that_may_be_selected(seed):
    """The epochs that remain after each epoch include all that any margin selects in the end, and no others."""
    rng = np.random.default_rng(seed)
    scores, num_selected = list(rng.integers(0, 8, 12) / 8), int(rng.integers(1, 5))
    remaining = set()
    for count in range(1, len(scores) + 1):
        remaining = (remaining | {count - 1}) & set(reachable_epochs(scores[:count], num_selected))
    for margin in (0.0, 0.1, 0.2, 0.5, 1.0):
        assert set(rank_epochs(scores, margin)[:num_selected]) <= remaining
    margins = np.linspace(0, 1, 101)
    assert remaining == {epoch for margin in margins for epoch in rank_epochs(scores, margin)[:num_selected]}


def test_standard_error_is_that_of_a_proportion():
    """The standard error of 0.8 over 100 samples is 0.04; other scores from 0 to 1 with the same mean vary less."""
    assert standard_error(0.8, 100) == pytest.approx(0.04)
    assert standard_error(1.0, 5) == standard_error(0.0, 5) == standard_error(-np.inf, 5) == 0.0
    values = np.random.default_rng(0).beta(2, 5, 1000)
    assert values.std() / 1000**0.5 < standard_error(float(values.mean()), 1000)
