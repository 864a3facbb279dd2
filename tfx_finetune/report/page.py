"""Records that report.html displays; plain data without computations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.slices import SliceResult, WorstGroup
from tfx_finetune.report.head_results import HeadResult
from tfx_finetune.report.plots import Metrics, Plot, plot_learning_curves, plot_trade_off
from tfx_finetune.types.components import SamplePreview

MAX_MISTAKES = 24
"""Maximum number of mistakes on the page."""


@dataclass(frozen=True)
class HeadlineScore:
    """Test score of the trained model, the headline of the page.

    Attributes:
        score: float in [0, 1]. Test score of the trained model.
        metric: Name of the metric, such as `accuracy`.
        samples: int >= 0. Number of test samples.
        unit: Plural noun for the samples, such as `images`.
        interval: 95% confidence interval of the score as (low, high); None if it is unknown.

    Examples:
        >>> print(HeadlineScore(0.859, "accuracy", 192, "images", interval=(0.81, 0.903)))
        0.859 accuracy on 192 test images (95% CI 0.810 to 0.903)
    """

    score: float
    metric: str
    samples: int
    unit: str = "samples"
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        interval = f" (95% CI {self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        return f"{self.score:.3f} {self.metric.replace('_', ' ')} on {self.samples:,} test {self.unit}{interval}"


@dataclass(frozen=True)
class ClassCount:
    """Number of samples of one class in each split."""

    name: str
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class DataSummary:
    """Summary of the data set of a run.

    Attributes:
        source: Name of the data source.
        splits: Number of samples by split.
        classes: Number of samples of each class and split, by head.
        skipped_samples: `(file, reason)` of every sample that could not be used.
        num_duplicates: int >= 0. Number of samples that are exact duplicates of another sample.
        warnings: Warnings about the data, one sentence each.
    """

    source: str
    splits: Mapping[str, int]
    classes: Mapping[str, tuple[ClassCount, ...]] = field(default_factory=dict)
    skipped_samples: tuple[tuple[str, str], ...] = ()
    num_duplicates: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseResult:
    """Result of one training phase.

    Attributes:
        phase: Name of the phase, such as `frozen` or `finetune`.
        seconds: float >= 0. Duration of the phase.
        trained_params: int >= 0. Number of trained parameters.
        total_params: int >= 0. Number of parameters of the model.
        metrics: One value per epoch, by name: `loss`, `val_loss`, metrics with and without `val_`, `learning_rate`.
        best_epoch: int. Epoch (from 0) with the best validation score; negative if there is none.
        selected: Weights that the phase returned, such as `epoch 5` or an average of epochs, as text.
    """

    phase: str
    seconds: float
    trained_params: int
    total_params: int
    metrics: Metrics
    best_epoch: int = -1
    selected: str = ""

    @property
    def num_epochs(self) -> int:
        """Number of epochs that the phase ran."""
        return max(map(len, self.metrics.values()), default=0)

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Learning curves of the phase."""
        return plot_learning_curves(self.phase, self.metrics, self.best_epoch)


@dataclass(frozen=True)
class LocalizationExample:
    """Test image with its ground truth and the prediction of a detection or segmentation head.

    Attributes:
        images: Two JPEG files: the image with the ground truth and the image with the prediction.
        file: File name of the sample.
        truth: Class names of the ground truth, as text.
        predicted: Class names of the prediction, as text.
        score: float in [0, 1]. Score of the prediction for this image.
        head: Name of the head.
    """

    images: tuple[bytes, bytes]
    file: str
    truth: str
    predicted: str
    score: float
    head: str = ""


@dataclass(frozen=True)
class Mistake:
    """Misclassified test sample.

    Attributes:
        previews: Previews of the inputs of the sample.
        file: File name of the sample.
        truth: True class names.
        predicted: Predicted class names.
        score: float in [0, 1]. Probability of the top class; the page displays the highest first.
        top_scores: `(class name, probability)` of the classes with the highest probabilities.
        head: Name of the head.
        gate_weights: Weight of each input in a gated fusion, by tower; empty without gates.
        language: Language of the sample; empty if it is unknown.
    """

    previews: tuple[SamplePreview, ...]
    file: str
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    score: float
    top_scores: tuple[tuple[str, float], ...] = ()
    head: str = ""
    gate_weights: Mapping[str, float] = field(default_factory=dict)
    language: str = ""


@dataclass(frozen=True)
class AblationRow:
    """Score of a multimodal model that receives a subset of its inputs.

    Attributes:
        towers: Names of the inputs in the subset.
        samples: int >= 0. Number of test samples that have at least one of these inputs.
        score: float in [0, 1]. Score on these samples.
    """

    towers: tuple[str, ...]
    samples: int
    score: float


@dataclass(frozen=True)
class ExportRow:
    """Verification result of an exported file and the file's name in the bundle."""

    result: VerificationResult
    file: str

    @property
    def is_measured(self) -> bool:
        """True if the file returned outputs that can be compared with the trained model's."""
        return math.isfinite(self.result.difference)


@dataclass(frozen=True)
class Report:
    """Content of report.html.

    Attributes:
        title: Title of the page, the name of the data.
        command: Command line that repeats the run.
        config: Text of run.cfg.
        created: Date and time of the report, as text.
        seconds: float >= 0. Training time.
        environment: Package versions, device and thread count, by name.
        seed: Random seed of the run.
        headline: Test score of the trained model.
        data: Summary of the data set.
        phases: Results of the training phases, in order.
        heads: Test results of each head.
        mistakes: Misclassified test samples; the page displays up to `MAX_MISTAKES`, highest probability first.
        examples: Example images of detection and segmentation heads.
        slices: Scores by language and by source; empty if there is only one.
        worst_groups: Gap between the worst and the best language or source, for each head.
        ablations: Scores for every subset of the inputs; empty for models with one tower.
        gate_weights: Mean weight of each input in a gated fusion, by tower; empty without gates.
        continual_metrics: Scores of sequential training; None for other strategies.
        exports: Exported files.
        selected_format: Format of the file that `--constraints` selected; empty if there is none.
    """

    title: str
    command: str
    config: str
    created: str
    seconds: float
    environment: Mapping[str, str]
    seed: int
    headline: HeadlineScore
    data: DataSummary
    phases: tuple[PhaseResult, ...] = ()
    heads: tuple[HeadResult, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    examples: tuple[LocalizationExample, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    worst_groups: tuple[WorstGroup, ...] = ()
    ablations: tuple[AblationRow, ...] = ()
    gate_weights: Mapping[str, float] = field(default_factory=dict)
    continual_metrics: ContinualMetrics | None = None
    exports: tuple[ExportRow, ...] = ()
    selected_format: str = ""

    @property
    def trade_off_svg(self) -> str:
        """SVG plot of the files by size, score and latency; empty if fewer than two files were measured."""
        points = {
            row.result.format: (row.result.bytes, row.result.score, row.result.latency)
            for row in self.exports
            if row.is_measured and row.result.bytes and row.result.latency
        }
        return plot_trade_off(points, self.headline.metric.replace("_", " ")) if len(points) > 1 else ""
