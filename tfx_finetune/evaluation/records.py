"""Records of evaluations."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModalityAblation:
    """Scores of a model that is shown some of its inputs alone.

    Attributes:
        towers: Those that it is shown.
        samples: Test samples that have something for one of them.
        scores: Every score of every head on these.
    """

    towers: tuple[str, ...]
    samples: int
    scores: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in scores.json, without what is told of single classes."""
        single = {name: value for name, value in self.scores.items() if isinstance(value, float)}
        return {"towers": list(self.towers), "samples": self.samples, **single}
