"""What a head scored on held-out samples, as report.html shows it: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfx_finetune.report.plots import Plot, plot_precision_recall

MAX_CONFUSED_PAIRS = 20
ERROR_DESCRIPTIONS = {
    "class": "the place is right, the class is another",
    "localization": "the class is right, the box lies badly (IoU 0.1 to 0.5)",
    "both": "near an object of another class",
    "duplicate": "an object that a surer box has already",
    "background": "nothing is there",
    "missed": "an object about which no box is right or nearly so",
}
"""What can be wrong with boxes, the ends of the names of scores: see `tasks/error_analysis.py`."""
_ERROR_PREFIX = "error_"


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others.

    `average_precision` where the head ranks, as tagging and detection do; `iou` where it tells pixels.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    average_precision: float | None = None
    iou: float | None = None


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, how many samples of the first were taken for the second, and their share of the first's."""

    truth: str
    predicted: str
    count: int
    fraction: float


@dataclass(frozen=True, eq=False)
class HeadResult:
    """What one head scored on the held-out samples.

    Attributes:
        name: Its name.
        score: Name of the score that it is judged by, a key of `scores`.
        scores: Every score by name.
        interval: 95 % interval of `score`.
        classes: Class names, in the order of `confusion`.
        confusion: Counts, (classes, classes), rows are the truth; None where a sample may have several classes.
        counted: What those and the support of a class are, where that is not samples.
        per_class: One row a class.
        curves: Precision at rising recalls by class, where the head finds objects.
    """

    name: str
    monitor: str
    scores: Mapping[str, float]
    interval: tuple[float, float] | None = None
    classes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None
    per_class: tuple[ClassScore, ...] = ()
    count_unit: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def classes_by_f1(self) -> list[ClassScore]:
        """The classes by F1, those without a held-out sample last."""
        return sorted(self.per_class, key=lambda row: (row.support == 0, row.f1))

    @property
    def other_scores(self) -> dict[str, float]:
        """The scores without that which it is judged by, and without what is wrong with boxes."""
        return {
            key: value
            for key, value in self.scores.items()
            if key != self.monitor and not key.startswith(_ERROR_PREFIX)
        }

    @property
    def errors(self) -> list[tuple[str, str, float]]:
        """What is wrong with the boxes that were found: the kind, what that means, and how many there are an object."""
        found = {
            key.removeprefix(_ERROR_PREFIX): share
            for key, share in self.scores.items()
            if key.startswith(_ERROR_PREFIX)
        }
        return [(kind, ERROR_DESCRIPTIONS.get(kind, ""), share) for kind, share in found.items()]

    @property
    def precision_recall_plot(self) -> Plot | None:
        """Its curves, drawn; nothing where it has none."""
        return plot_precision_recall(self.name, self.curves) if self.curves else None

    @property
    def most_confused_pairs(self) -> list[ConfusedPair]:
        """The pairs of classes that were confused most often, beginning with the worst."""
        if self.confusion is None:
            return []
        counts = np.asarray(self.confusion)
        pairs = [(i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
        pairs.sort(key=lambda pair: -counts[pair])
        return [
            ConfusedPair(self.classes[i], self.classes[j], int(counts[i, j]), float(counts[i, j] / counts[i].sum()))
            for i, j in pairs[:MAX_CONFUSED_PAIRS]
        ]
