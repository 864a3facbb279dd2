"""Records of evaluations."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModalityAblation:
    """Scores of a model that receives a subset of its inputs.

    Attributes:
        towers: Names of the towers whose input is present.
        samples: Number of test samples that have at least one of these inputs.
        scores: All scores of all heads on these samples, by `<head>/<score>`.
    """

    towers: tuple[str, ...]
    samples: int
    scores: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of scores.json, without the scores of single classes.

        Examples:
            >>> ModalityAblation(("image",), 40, {"label/accuracy": 0.5, "label/per_class": {}}).to_dict()
            {'towers': ['image'], 'samples': 40, 'label/accuracy': 0.5}
        """
        scalars = {name: value for name, value in self.scores.items() if isinstance(value, float)}
        return {"towers": list(self.towers), "samples": self.samples, **scalars}
