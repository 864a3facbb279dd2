"""Models that were tuned from one start become one, by arithmetic on their weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.registry import Registry

MERGES = Registry("merge", "tfx_finetune.training.merging")
SCALE_CANDIDATES = (*(step / 20 for step in range(21)), 1.2, 1.4, 1.6, 1.8, 2.0)
"""What is tried where no scale is given: the grid of arXiv 2212.04089, and above it what `ties` may want."""


class Merge(NamedTuple):
    """How several models become one.

    Attributes:
        combine: Task vectors, what tuning added to the start's weights, (models, weights) -> one, (weights,).
        scale: Of what is added to the start; 0 where it is to be chosen on validation samples.
    """

    combine: Callable[[np.ndarray], np.ndarray]
    scale: float = 1.0


@MERGES.register
def average() -> Merge:
    """The mean of all weights (Wortsman et al., arXiv 2203.05482)."""
    return Merge(lambda vectors: vectors.mean(0))


@MERGES.register
def task_arithmetic(scale: float = 0.0) -> Merge:
    """The sum of task vectors (Ilharco et al., arXiv 2212.04089, section 2).

    Args:
        scale: Of the sum; 0 chooses it on validation samples.
    """
    return Merge(lambda vectors: vectors.sum(0), _check_scale(scale))


@MERGES.register
def ties(density: float = 0.2, scale: float = 0.0) -> Merge:
    """Trim, elect a sign, merge (Yadav et al., arXiv 2306.01708, algorithm 1): of each task vector the greatest numbers
    are kept, and of these the mean is taken of those that have the sign of their sum.

    Args:
        density: Share of each task vector's numbers that is kept, above 0 to 1.
        scale: Of the result; 0 chooses it on validation samples.
    """
    if not 0 < density <= 1:
        raise UserError("density of ties is out of range", got=density, expected="above 0 to 1")
    return Merge(lambda vectors: _disjoint_mean(np.stack([trim(v, density) for v in vectors])), _check_scale(scale))


def trim(vector: np.ndarray, density: float) -> np.ndarray:
    """A vector of which a share is kept, the numbers of the greatest size; others are 0. Equal ones are kept alike."""
    kept = max(round(density * len(vector)), 1)
    least = np.partition(np.abs(vector), len(vector) - kept)[len(vector) - kept]
    return np.where(np.abs(vector) >= least, vector, 0).astype(vector.dtype)


def _disjoint_mean(vectors: np.ndarray) -> np.ndarray:
    """Of each column the mean of the numbers whose sign is that of their sum, (weights,); 0 where there are none."""
    agree = (np.sign(vectors) == np.sign(vectors.sum(0))) & (vectors != 0)
    mean: np.ndarray = np.where(agree, vectors, 0).sum(0) / np.maximum(agree.sum(0), 1)
    return mean.astype(vectors.dtype)


def _check_scale(scale: float) -> float:
    if scale < 0:
        raise UserError("the scale of a merge is out of range", got=scale, expected="0 or more")
    return scale
