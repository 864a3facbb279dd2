"""What a run found out, as report.html shows it: plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfx_finetune.deploy.checks import VerificationResult
from tfx_finetune.evaluation.continual_metrics import ContinualMetrics
from tfx_finetune.evaluation.slices import SliceResult, WorstGroup
from tfx_finetune.report.head_results import HeadResult
from tfx_finetune.report.plots import Metrics, Plot, plot_learning_curves, plot_trade_off
from tfx_finetune.types.components import SamplePreview


@dataclass(frozen=True)
class HeadlineScore:
    """The headline.

    Attributes:
        score: The trained model's, in [0, 1].
        name: Of the score, such as `accuracy`.
        samples: Held-out samples that it was measured on.
        noun: What a sample is, in the plural.
        interval: 95 % interval of the score.
    """

    score: float
    metric: str
    samples: int
    unit: str = "samples"
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        known = f" (95 % interval {self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        return f"{self.score:.3f} {self.metric.replace('_', ' ')} on {self.samples:,} held-out {self.unit}{known}"


@dataclass(frozen=True)
class ClassCount:
    """Samples of a class in each split."""

    name: str
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class DataSummary:
    """What was learned from.

    Attributes:
        source: Name of the source.
        splits: Samples by split.
        classes: Samples by class, for each head.
        skipped: `(file, reason)` of every sample that could not be used.
        duplicates: Samples that are exact copies of another one.
        notes: What a person should know about the data.
    """

    source: str
    splits: Mapping[str, int]
    classes: Mapping[str, tuple[ClassCount, ...]] = field(default_factory=dict)
    skipped_samples: tuple[tuple[str, str], ...] = ()
    num_duplicates: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseResult:
    """What a phase of training did.

    Attributes:
        phase: Its name.
        seconds: Time it took.
        trained: Numbers that were trained, of `parameters` in all.
        parameters: Numbers in the model.
        metrics: One value an epoch by name: `loss`, `val_loss`, scores with and without `val_`, `learning_rate`.
        best_epoch: The epoch, counted from 0, of the best validation score; negative for none.
        kept: What the result of the phase is made of.
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
        """Epochs that were run."""
        return max(map(len, self.metrics.values()), default=0)

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Its learning curves."""
        return plot_learning_curves(self.phase, self.metrics, self.best_epoch)


@dataclass(frozen=True)
class LocalizationExample:
    """A held-out picture with what is in it and what a head found.

    Attributes:
        pictures: The truth, and what was found, drawn.
        file: What a person calls the sample.
        truth, found: The classes, in words.
        score: How right it is, in [0, 1].
        head: The head.
    """

    pictures: tuple[bytes, bytes]
    file: str
    truth: str
    predicted: str
    score: float
    head: str = ""


@dataclass(frozen=True)
class Mistake:
    """A held-out sample that the model got wrong.

    Attributes:
        exhibits: What there is to see and hear of it.
        file: What a person calls the sample.
        truth: Its classes.
        predicted: The classes that the model gave it.
        score: How sure of the wrong answer the model was, in [0, 1]; the surest are shown first.
        top: `(class, score)` of the highest scores.
        head: The head that erred; shown where there are several.
        shares: How much each tower counted.
        language: Of the sample, where it is known.
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
    """The score of a model that is shown some of its inputs alone, on the samples that have one of them."""

    towers: tuple[str, ...]
    samples: int
    score: float


@dataclass(frozen=True)
class ExportRow:
    """What was found about one exported file, and its name inside the bundle."""

    result: VerificationResult
    file: str

    @property
    def is_measured(self) -> bool:
        """Whether the file gave answers that can be compared."""
        return math.isfinite(self.result.difference)


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        title: What the model is about.
        command: The command line that makes the run again.
        config: Text of run.cfg.
        created: When, as text.
        seconds: How long it took.
        environment: Versions, device and threads, by name.
        seed: Of the run.
        verdict: The headline.
        data: What was learned from.
        phases: Training, in order.
        heads: What each head scored.
        mistakes: Samples that the model got wrong, the surest first; `MOST_MISTAKES` are shown.
        scenes: Pictures with what was found in them.
        slices: Scores by language and source, where there are several.
        gaps: Between the worst and the best of them.
        subsets: Scores by what the model is shown, where it has several towers.
        shares: How much each tower counted on the mean, where that is known.
        transfer: How languages did that were learned one after another.
        exports: The exported files.
        best: Format of the file that `--constraints` chose.
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
        """The files by size, score and time, drawn; nothing where there are too few to compare."""
        points = {
            row.result.format: (row.result.bytes, row.result.score, row.result.latency)
            for row in self.exports
            if row.is_measured and row.result.bytes and row.result.latency
        }
        return plot_trade_off(points, self.headline.metric.replace("_", " ")) if len(points) > 1 else ""


MAX_MISTAKES = 24
