"""Continual-learning metrics of sequential training."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ContinualMetrics:
    """Validation scores of every language after each language of sequential training.

    Attributes:
        languages: Languages in the order of training.
        initial_scores: Score of each language before the first language is trained.
        scores: Matrix of scores. Row i is measured after training language i; column j is the score of language j.

    Examples:
        >>> metrics = ContinualMetrics(("en", "fi"), (0.5, 0.5), ((0.9, 0.6), (0.8, 0.9)))
        >>> round(metrics.bwt, 3)
        -0.1
    """

    languages: tuple[str, ...]
    initial_scores: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]

    @property
    def bwt(self) -> float:
        """Backward transfer: mean score change of all languages but the last since each was trained.

        Negative values mean forgetting (Lopez-Paz and Ranzato, arXiv 1706.08840, equation 3).
        """
        scores = np.asarray(self.scores)
        return float(np.mean((scores[-1] - np.diag(scores))[:-1]))

    def to_dict(self) -> dict[str, Any]:
        """Return the entry `continual` of scores.json."""
        return {
            "languages": list(self.languages),
            "initial_scores": list(self.initial_scores),
            "scores": [list(row) for row in self.scores],
            "bwt": self.bwt,
        }
