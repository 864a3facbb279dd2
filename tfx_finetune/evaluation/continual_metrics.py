"""What a model that learns languages one after another knows of each after every one of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ContinualMetrics:
    """Validation scores by turn.

    Attributes:
        languages: In the order in which they were learned.
        start: Score of each before the first turn.
        scores: Of each language (columns) after each turn (rows).
    """

    languages: tuple[str, ...]
    initial_scores: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]

    @property
    def bwt(self) -> float:
        """Backward transfer: by how much languages became better since they were learned, on the mean over all but the
        last one; below 0 where they were forgotten (Lopez-Paz and Ranzato, arXiv 1706.08840, equation 3).
        """
        found = np.asarray(self.scores)
        return float(np.mean((found[-1] - np.diag(found))[:-1]))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in scores.json."""
        return {
            "languages": list(self.languages),
            "start": list(self.initial_scores),
            "scores": [list(row) for row in self.scores],
            "backward": self.bwt,
        }
