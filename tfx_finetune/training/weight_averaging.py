"""Weight averaging: greedy soups of epochs, and interpolation between initial and fine-tuned weights.

Validation sets are small, so score differences below a margin are treated as ties. Among ties, the weights that were
trained longer win (one-standard-error rule: Breiman, Friedman, Olshen and Stone, Classification and regression trees,
1984, section 3.4.3).
"""

import math
from collections.abc import Callable, Iterable, Sequence

from tfx_finetune.training.checkpoint import Weights

ScoreFn = Callable[[Weights], float]
"""Function from weights to their validation score; higher is better."""

INTERPOLATION_COEFFICIENTS = tuple(step / 10 for step in range(10))


def standard_error(score: float, num_samples: int) -> float:
    """Return the largest possible standard error of a mean of values from 0 to 1.

    This is the standard error of a proportion; no other values from 0 to 1 with the same mean vary more (Bhatia and
    Davis, A better bound on the variance, American Mathematical Monthly 107, 2000).

    Args:
        score: float, 0 to 1. The mean.
        num_samples: int >= 1. Number of values.

    Examples:
        >>> round(standard_error(0.8, 100), 3)
        0.04
    """
    return math.sqrt(max(score * (1 - score), 0.0) / num_samples)


def rank_epochs(scores: Sequence[float], margin: float) -> list[int]:
    """Return the epochs, from 0, by preference.

    Epochs within `margin` of the best score come first, the latest of them first. The others follow by score.

    Args:
        scores: Validation score of each epoch.
        margin: float >= 0. Score differences up to this value are ties.

    Examples:
        >>> rank_epochs([0.6, 0.9, 0.89, 0.8], margin=0.02)
        [2, 1, 3, 0]
    """
    threshold = max(scores) - margin
    return sorted(range(len(scores)), key=lambda epoch: (-min(scores[epoch], threshold), -epoch))


def reachable_epochs(scores: Sequence[float], num_selected: int) -> list[int]:
    """Return the epochs, from 0, that may still be among the first `num_selected` of `rank_epochs` after training.

    The result holds for any scores of later epochs and for any margin.

    Args:
        scores: Validation score of each epoch so far.
        num_selected: int >= 1. Number of epochs that are selected after training.

    Examples:
        >>> reachable_epochs([0.6, 0.9, 0.8], num_selected=1)
        [1, 2]
    """
    return [
        epoch
        for epoch, score in enumerate(scores)
        if sum(later >= score for later in scores[epoch + 1 :]) < num_selected
    ]


def greedy_soup(candidates: Iterable[Weights], score_fn: ScoreFn, margin: float) -> tuple[Weights, int, float]:
    """Average candidates greedily: a candidate is added unless the validation score falls.

    Model soups, Wortsman et al., arXiv 2203.05482, recipe 1.

    Args:
        candidates: At least one set of weights, in order of preference.
        score_fn: Function from weights to their validation score.
        margin: float >= 0. Smaller drops of the score are ignored.

    Returns:
        The average, the number of candidates in it, and its score.
    """
    first, *others = candidates
    soup, count, score = first, 1, score_fn(first)
    best_score = score
    for candidate in others:
        new_soup = [old + (new - old) / (count + 1) for old, new in zip(soup, candidate, strict=True)]
        if (new_score := score_fn(new_soup)) >= best_score - margin:
            soup, count, score, best_score = new_soup, count + 1, new_score, max(best_score, new_score)
    return soup, count, score


def interpolate(
    initial_weights: Weights, finetuned_weights: Weights, score: float, score_fn: ScoreFn, margin: float
) -> tuple[Weights, float, float]:
    """Find the best interpolation between initial and fine-tuned weights, ends included.

    WiSE-FT, Wortsman et al., arXiv 2109.01903.

    Args:
        initial_weights: Weights before fine-tuning.
        finetuned_weights: Weights after fine-tuning.
        score: Validation score of the fine-tuned weights.
        score_fn: Function from weights to their validation score.
        margin: float >= 0. The fine-tuned weights are returned unless an interpolation is better by more than this.

    Returns:
        The weights, their coefficient (0: initial, 1: fine-tuned), and their score. Among interpolations with equal
        scores, the one with the largest coefficient is returned.
    """

    def mix(coefficient: float) -> Weights:
        return [old + coefficient * (new - old) for old, new in zip(initial_weights, finetuned_weights, strict=True)]

    scores = {coefficient: score_fn(mix(coefficient)) for coefficient in reversed(INTERPOLATION_COEFFICIENTS)}
    best = max(scores, key=lambda coefficient: scores[coefficient])
    if scores[best] > score + margin:
        return mix(best), best, scores[best]
    return finetuned_weights, 1.0, score
