"""Merging of models that were fine-tuned from the same weights, by arithmetic on their weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.registry import Registry

MERGES = Registry("merge", "tfx_finetune.training.merging")
SCALE_CANDIDATES = (*(step / 20 for step in range(21)), 1.2, 1.4, 1.6, 1.8, 2.0)
"""Scales from which the validation score selects: the grid of arXiv 2212.04089, and larger ones for `ties()`."""


class Merge(NamedTuple):
    """Method that merges several models into one.

    Attributes:
        combine: Function from task vectors (models, weights) to one vector (weights,). A task vector is the difference
            between fine-tuned and initial weights.
        scale: float >= 0. The merged model is initial weights + scale * combined vector. 0: the scale with the best
            validation score.
    """

    combine: Callable[[np.ndarray], np.ndarray]
    scale: float = 1.0


@MERGES.register
def average() -> Merge:
    """Average all weights (Wortsman et al., arXiv 2203.05482)."""
    return Merge(lambda vectors: vectors.mean(0))


@MERGES.register
def task_arithmetic(scale: float = 0.0) -> Merge:
    """Sum the task vectors (Ilharco et al., arXiv 2212.04089, section 2).

    Args:
        scale: float >= 0. Factor of the sum. 0: the factor with the best validation score. Default 0.
    """
    return Merge(lambda vectors: vectors.sum(0), _check_scale(scale))


@MERGES.register
def ties(density: float = 0.2, scale: float = 0.0) -> Merge:
    """Trim task vectors, elect signs, and average agreeing values (TIES, Yadav et al., arXiv 2306.01708, algorithm 1).

    Args:
        density: float, above 0, at most 1. Fraction of each task vector that is not set to 0. Default 0.2.
        scale: float >= 0. Factor of the merged vector. 0: the factor with the best validation score. Default 0.
    """
    if not 0 < density <= 1:
        raise UserError("density of ties() is out of range", got=density, expected="above 0, at most 1")
    return Merge(lambda vectors: _disjoint_mean(np.stack([trim(v, density) for v in vectors])), _check_scale(scale))


def trim(vector: np.ndarray, density: float) -> np.ndarray:
    """Set all values of a vector to 0 except a fraction with the largest magnitudes.

    Args:
        vector: float array (n,).
        density: float, above 0, at most 1. Fraction of the values to keep. Values of equal magnitude are treated alike.

    Examples:
        >>> trim(np.array([4, -1, 0, 2, -3]), 0.4).tolist()
        [4, 0, 0, 0, -3]
    """
    count = max(round(density * len(vector)), 1)
    threshold = np.partition(np.abs(vector), len(vector) - count)[len(vector) - count]
    return np.where(np.abs(vector) >= threshold, vector, 0).astype(vector.dtype)


def _disjoint_mean(vectors: np.ndarray) -> np.ndarray:
    """Return the column means (weights,) over the values whose sign is that of the column sum; 0 if there are none."""
    agree = (np.sign(vectors) == np.sign(vectors.sum(0))) & (vectors != 0)
    mean: np.ndarray = np.where(agree, vectors, 0).sum(0) / np.maximum(agree.sum(0), 1)
    return mean.astype(vectors.dtype)


def _check_scale(scale: float) -> float:
    if scale < 0:
        raise UserError("Scale of a merge is out of range", got=scale, expected="0 or more")
    return scale
