"""What a head scored on held-out samples, as report.html shows it: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfx_finetune.reporting.plots import Plot, precision_recall

MOST_CONFUSED = 20


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
class Confused:
    """Two classes, how many samples of the first were taken for the second, and their share of the first's."""

    truth: str
    predicted: str
    count: int
    share: float


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
    score: str
    scores: Mapping[str, float]
    interval: tuple[float, float] | None = None
    classes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None
    per_class: tuple[ClassScore, ...] = ()
    counted: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def weakest_first(self) -> list[ClassScore]:
        """The classes by F1, those without a held-out sample last."""
        return sorted(self.per_class, key=lambda row: (row.support == 0, row.f1))

    @property
    def precision_recall(self) -> Plot | None:
        """Its curves, drawn; nothing where it has none."""
        return precision_recall(self.name, self.curves) if self.curves else None

    @property
    def most_confused(self) -> list[Confused]:
        """The pairs of classes that were confused most often, beginning with the worst."""
        if self.confusion is None:
            return []
        counts = np.asarray(self.confusion)
        pairs = [(i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
        pairs.sort(key=lambda pair: -counts[pair])
        return [
            Confused(self.classes[i], self.classes[j], int(counts[i, j]), float(counts[i, j] / counts[i].sum()))
            for i, j in pairs[:MOST_CONFUSED]
        ]
