"""Confidence intervals of a score and of a score difference."""

from collections.abc import Mapping

import numpy as np

from tfx_finetune.evaluation.scores import mask_labeled
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.task import Task

_Z = 1.96  # quantile of the normal distribution for 95 %


def wilson_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval of a mean of values from 0 to 1.

    Samples of the same group, such as views of one object, are correlated. The interval uses the effective sample size
    (design effect, Kish, Survey Sampling, 1965, section 8.2; with the Wilson interval: Franco et al., Journal of Survey
    Statistics and Methodology 7, 2019).

    Args:
        values: float array (n,), 0 to 1. Score of each sample.
        groups: str array (n,). Group name of each sample; empty if the sample has no group.

    Returns:
        Lower and upper limit, both from 0 to 1.

    Examples:
        >>> low, high = wilson_interval(np.repeat([1.0, 0.0], [41, 9]), np.repeat("", 50))
        >>> print(f"{low:.3f} {high:.3f}")
        0.692 0.902
    """
    n, mean = _effective_sample_size(values, groups), float(values.mean())
    center = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half_width = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n * n))
    return float(center - half_width), float(center + half_width)


def _effective_sample_size(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the number of independent samples whose mean has the same variance, at most n."""
    n, mean = len(values), values.mean()
    # A sample without a group is a group of its own.
    names = [name or f"\n{index}" for index, name in enumerate(groups)]
    _, group_ids = np.unique(np.array(names), return_inverse=True)
    num_groups = int(group_ids.max()) + 1
    # The variance between groups cannot be estimated from a single group.
    if num_groups == 1:
        return n
    sample_variance = mean * (1 - mean) * n / max(n - 1, 1)
    if not sample_variance:
        return num_groups
    deviations = np.bincount(group_ids, values - mean)
    mean_variance = num_groups / (num_groups - 1) * (deviations**2).sum() / n**2
    return min(n, sample_variance / mean_variance) if mean_variance else n


def paired_interval(
    tasks: Mapping[str, Task], targets: Batch, reference: Batch, candidate: Batch, score_drop: float = 0.0
) -> tuple[float, float]:
    """Compute the 95 % interval of the score that `candidate` loses against `reference` on the same samples.

    The interval is the adjusted Wald interval of Agresti and Min (Simple improved confidence intervals for comparing
    matched proportions, Statistics in Medicine 24, 2005). It adds two samples: half a loss, half a win and one tie.
    Without them, the interval of two files that agree on every sample of a small test set would have width 0.

    Scores of heads that localize objects, such as average precision, are not means over images. If there is such a
    head, the interval is centered at `score_drop`; its width comes from the scores of single images.

    Args:
        tasks: Heads by name.
        targets: Targets (n, ...) by head.
        reference: Outputs of the trained model, `<head>/scores` (n, ...).
        candidate: Outputs of the exported file, with the same names and shapes.
        score_drop: float. Drop of the score over all samples. Used only if a head localizes objects.

    Returns:
        Lower and upper limit, from -1 to 1. Positive values mean that `candidate` is worse.
    """
    losses, masks = [], []
    for head, task in tasks.items():
        target = targets[head]
        losses.append(
            task.per_sample_score(target, reference[f"{head}/scores"])
            - task.per_sample_score(target, candidate[f"{head}/scores"])
        )
        masks.append(mask_labeled(task, target))
    # The loss of a sample is the mean over the heads for which the sample has a label.
    is_labeled = np.any(masks, axis=0)
    loss = np.average(np.array(losses)[:, is_labeled], axis=0, weights=np.array(masks)[:, is_labeled])
    count = len(loss) + 2
    mean, mean_square = loss.sum() / count, ((loss**2).sum() + 1) / count
    half_width = _Z * np.sqrt((mean_square - mean**2) / count)
    center = score_drop if any(task.localization for task in tasks.values()) else mean
    return float(max(center - half_width, -1)), float(min(center + half_width, 1))
