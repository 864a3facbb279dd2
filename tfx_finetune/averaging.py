"""Weights between the weights that training passed through: averages of epochs, and of an epoch and the start."""

from collections.abc import Callable, Sequence

from tfx_finetune.checkpoint import Weights

Judge = Callable[[Weights], tuple[float, float]]
"""Weights -> validation score and negative validation loss; the greater pair is the better one."""

COEFFICIENTS = tuple(step / 10 for step in range(1, 10))


def greedy_soup(candidates: Sequence[Weights], judge: Judge) -> tuple[Weights, int]:
    """Averages epochs as long as the validation score does not fall (Wortsman et al., arXiv 2203.05482, recipe 1).

    Args:
        candidates: Weights, the best first.
        judge: Tells how good weights are.

    Returns:
        The average, and how many of the candidates are in it.
    """
    soup, count, best = candidates[0], 1, judge(candidates[0])
    for candidate in candidates[1:]:
        tried = [old + (new - old) / (count + 1) for old, new in zip(soup, candidate, strict=True)]
        if (found := judge(tried)) >= best:
            soup, count, best = tried, count + 1, found
    return soup, count


def interpolate(start: Weights, tuned: Weights, judge: Judge) -> tuple[Weights, float]:
    """The best point between two sets of weights (WiSE-FT, Wortsman et al., arXiv 2109.01903), ends included.

    Args:
        start: Before tuning.
        tuned: After it.
        judge: Tells how good weights are; of equal points the tuned end comes first.

    Returns:
        The weights, and their coefficient: 0 is the start, 1 is tuned.
    """

    def between(share: float) -> Weights:
        return [old + share * (new - old) for old, new in zip(start, tuned, strict=True)]

    best, chosen = judge(tuned), 1.0
    for share in (*reversed(COEFFICIENTS), 0.0):
        if (found := judge(between(share))) > best:
            best, chosen = found, share
    return between(chosen) if chosen < 1 else tuned, chosen
