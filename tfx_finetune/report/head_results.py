"""Test results of one head, as report.html displays them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfx_finetune.report.plots import Plot, plot_precision_recall

MAX_CONFUSED_PAIRS = 20
"""Maximum number of confused class pairs on the page."""
ERROR_DESCRIPTIONS = {
    "class": "correct box, wrong class",
    "localization": "correct class, IoU 0.1 to 0.5",
    "both": "wrong class, IoU 0.1 to 0.5",
    "duplicate": "correct, but the object is matched by a box with a higher score",
    "background": "IoU below 0.1 with every object",
    "missed": "object without a correct, misclassified or mislocalized box",
}
"""Description of each TIDE error type (arXiv 2008.08115); see `tasks/error_analysis.py`."""
_ERROR_PREFIX = "error_"


@dataclass(frozen=True)
class ClassScore:
    """Test scores of one class.

    Attributes:
        name: Name of the class.
        precision: float in [0, 1].
        recall: float in [0, 1].
        f1: float in [0, 1].
        support: int >= 0. Number of test samples (or pixels) of the class.
        average_precision: float in [0, 1]; None if the head ranks no samples or boxes.
        iou: float in [0, 1]. Intersection over union; None if the head does not segment.
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
    """Pair of classes that a head confuses.

    Attributes:
        truth: True class.
        predicted: Predicted class.
        count: int > 0. Number of test samples.
        fraction: float in (0, 1]. `count` divided by the number of test samples of the true class.
    """

    truth: str
    predicted: str
    count: int
    fraction: float


@dataclass(frozen=True, eq=False)
class HeadResult:
    """Test results of one head.

    Attributes:
        name: Name of the head.
        monitor: Name of the main metric, a key of `scores`.
        scores: Scores by metric name.
        interval: 95% confidence interval of the main metric as (low, high); None if it is unknown.
        classes: Class names, in the order of `confusion`.
        confusion: int array (classes, classes). Confusion matrix, rows are true classes; None for multi-label heads.
        per_class: Scores of each class.
        count_unit: Unit of the confusion matrix and of the support, such as `pixels`; empty for samples.
        curves: Precision at evenly spaced recalls from 0 to 1, by class; empty if the head detects no objects.
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
        """Scores of the classes by ascending F1; classes without a test sample come last."""
        return sorted(self.per_class, key=lambda row: (row.support == 0, row.f1))

    @property
    def other_scores(self) -> dict[str, float]:
        """Scores without the main metric and without detection errors."""
        return {
            key: value
            for key, value in self.scores.items()
            if key != self.monitor and not key.startswith(_ERROR_PREFIX)
        }

    @property
    def errors(self) -> list[tuple[str, str, float]]:
        """Detection errors: `(error type, description, errors per ground-truth object)`."""
        rates = {
            key.removeprefix(_ERROR_PREFIX): rate for key, rate in self.scores.items() if key.startswith(_ERROR_PREFIX)
        }
        return [(kind, ERROR_DESCRIPTIONS.get(kind, ""), rate) for kind, rate in rates.items()]

    @property
    def precision_recall_plot(self) -> Plot | None:
        """Plot of the precision-recall curves; None if the head has no curves."""
        return plot_precision_recall(self.name, self.curves) if self.curves else None

    @property
    def most_confused_pairs(self) -> list[ConfusedPair]:
        """Pairs of classes by descending number of confusions, up to `MAX_CONFUSED_PAIRS`."""
        if self.confusion is None:
            return []
        counts = np.asarray(self.confusion)
        pairs = [(i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
        pairs.sort(key=lambda pair: -counts[pair])
        return [
            ConfusedPair(self.classes[i], self.classes[j], int(counts[i, j]), float(counts[i, j] / counts[i].sum()))
            for i, j in pairs[:MAX_CONFUSED_PAIRS]
        ]
