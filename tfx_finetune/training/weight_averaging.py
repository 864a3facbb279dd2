"""Weights between the weights that training passed through: averages of epochs, and of an epoch and the start.

Which of them is better is told by a score on few samples, of which small differences say nothing: what comes first, the
longer trained, stays unless another one is better by more than a margin (the one standard error rule of Breiman,
Friedman, Olshen and Stone, Classification and regression trees, 1984, section 3.4.3).
"""

import math
from collections.abc import Callable, Iterable, Sequence

from tfx_finetune.training.checkpoint import Weights

ScoreFn = Callable[[Weights], float]
"""Weights -> validation score, the greater the better."""

INTERPOLATION_COEFFICIENTS = tuple(step / 10 for step in range(10))


def standard_error(score: float, num_samples: int) -> float:
    """The most that the standard error of a score can be, a mean over samples of values from 0 to 1.

    It is that of a share: no values between 0 and 1 with this mean vary more (Bhatia and Davis, A better bound on the
    variance, American Mathematical Monthly 107, 2000).

    Args:
        score: From 0 to 1.
        samples: How many there are, at least 1.
    """
    return math.sqrt(max(score * (1 - score), 0.0) / num_samples)


def rank_epochs(scores: Sequence[float], margin: float) -> list[int]:
    """Epochs (from 0) by preference: those within the margin of the best score, the last first; then the others.

    Args:
        scores: Of each epoch.
        margin: By which a score has to be better to say anything.
    """
    least = max(scores) - margin
    return sorted(range(len(scores)), key=lambda epoch: (-min(scores[epoch], least), -epoch))


def reachable_epochs(scores: Sequence[float], num_selected: int) -> list[int]:
    """Epochs (from 0) that may still be among the first `most` of `latest`, whatever scores are to come and the margin.

    Args:
        scores: Of each epoch so far.
        most: How many are wanted.
    """
    return [
        epoch
        for epoch, score in enumerate(scores)
        if sum(later >= score for later in scores[epoch + 1 :]) < num_selected
    ]


def greedy_soup(candidates: Iterable[Weights], score_fn: ScoreFn, margin: float) -> tuple[Weights, int, float]:
    """Averages epochs as long as the validation score does not fall (Wortsman et al., arXiv 2203.05482, recipe 1).

    Args:
        candidates: Weights, the preferred first; at least one.
        judge: Tells how good weights are.
        margin: By which the score has to fall to say anything.

    Returns:
        The average, how many of the candidates are in it, and its score.
    """
    first, *others = candidates
    soup, count, score = first, 1, score_fn(first)
    best = score
    for candidate in others:
        tried = [old + (new - old) / (count + 1) for old, new in zip(soup, candidate, strict=True)]
        if (found := score_fn(tried)) >= best - margin:
            soup, count, score, best = tried, count + 1, found, max(best, found)
    return soup, count, score


def interpolate(
    initial_weights: Weights, finetuned_weights: Weights, score: float, score_fn: ScoreFn, margin: float
) -> tuple[Weights, float, float]:
    """The best point between two sets of weights (WiSE-FT, Wortsman et al., arXiv 2109.01903), ends included.

    Args:
        start: Before tuning.
        tuned: After it.
        score: Of tuned.
        judge: Tells how good weights are; of equal points the one nearest to the tuned end comes first.
        margin: By which a point has to be better than the tuned end to be taken.

    Returns:
        The weights, their coefficient (0 is the start, 1 is tuned), and their score.
    """

    def between(share: float) -> Weights:
        return [old + share * (new - old) for old, new in zip(initial_weights, finetuned_weights, strict=True)]

    found = {share: score_fn(between(share)) for share in reversed(INTERPOLATION_COEFFICIENTS)}
    best = max(found, key=lambda share: found[share])
    return (between(best), best, found[best]) if found[best] > score + margin else (finetuned_weights, 1.0, score)
