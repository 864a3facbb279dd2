"""How far a score may be from what the model would get on more data of the same kind."""

from collections.abc import Mapping

import numpy as np

from tfx_finetune.evaluation.scores import mask_labeled
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task

_Z = 1.96


def wilson_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean of values in [0, 1]: the Wilson score interval, which keeps to that range.

    Samples of one group, such as the views of one thing, say less than as many of different ones: the interval is that
    of so many independent samples as the mean would vary with as much (Kish, Survey Sampling, 1965, section 8.2: the
    design effect; with the interval of Wilson: Franco et al., Journal of Survey Statistics and Methodology 7, 2019).

    Args:
        correct: (n,).
        groups: Name of each sample's group, empty for none, (n,).
    """
    n, mean = _effective_sample_size(values, groups), float(values.mean())
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n * n))
    return float(centre - half), float(centre + half)


def _effective_sample_size(values: np.ndarray, groups: np.ndarray) -> float:
    """How many independent samples would say as much, at most n."""
    n, mean = len(values), values.mean()
    names = [name or f"\n{row}" for row, name in enumerate(groups)]  # each by itself where it is of no group
    _, member = np.unique(np.array(names), return_inverse=True)
    count = int(member.max()) + 1
    # What one group says of others, nobody knows.
    if count == 1:
        return n
    spread = mean * (1 - mean) * n / max(n - 1, 1)
    if not spread:
        return count
    apart = np.bincount(member, values - mean)
    variance = count / (count - 1) * (apart**2).sum() / n**2
    return min(n, spread / variance) if variance else n


def paired_interval(
    tasks: Mapping[str, Task], targets: Batch, reference: Batch, candidate: Batch, score_drop: float = 0.0
) -> tuple[float, float]:
    """95 % interval of what `theirs` loses against `ours` on the same samples, in terms of `Task.correct`.

    The adjusted Wald interval of Agresti and Min (Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24, 2005): as if two more samples had been seen, half a one lost, half a one
    won and one tied. Without them, files that agree on every sample of a small test set would seem known to be equal.

    The scores of heads that find things are of all pictures together. Beside such a head the interval is about the
    `drop` of the score, as wide as single pictures say.
    """
    losses, counted = [], []
    for head, task in tasks.items():
        target = targets[head]
        losses.append(
            task.per_sample_score(target, reference[f"{head}/scores"])
            - task.per_sample_score(target, candidate[f"{head}/scores"])
        )
        counted.append(mask_labeled(task, target))
    # Of each sample, the mean over the heads that are asked about it.
    some = np.any(counted, axis=0)
    loss = np.average(np.array(losses)[:, some], axis=0, weights=np.array(counted)[:, some])
    count = len(loss) + 2
    mean, square = loss.sum() / count, ((loss**2).sum() + 1) / count
    half = _Z * np.sqrt((square - mean**2) / count)
    mean = score_drop if any(task.localization for task in tasks.values()) else mean
    return float(max(mean - half, -1)), float(min(mean + half, 1))
