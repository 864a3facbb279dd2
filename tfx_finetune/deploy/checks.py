"""What verification finds about one exported file: the record that the bundle, the summary and the report read."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfx_finetune.core import progress


@dataclass(frozen=True)
class VerificationResult:
    """What was found about one exported file.

    Attributes:
        format: The file's format.
        scores: Every score on the test split.
        score: Mean over heads of each task's own score.
        drop: Score that it lost against the trained model.
        low: Lower end of the paired 95 % interval of the drop.
        high: Upper end.
        difference: Largest difference of a decoded output on the golden samples.
        latency: Milliseconds a sample, median, with all threads.
        reason: Why it is refused; empty where it passes.
        agreement: Share of the test samples to which it gives the trained model's answer.
        bytes: Its size.
        zipped: Its size when zipped.
        zeros: Share of zeros in the kernels of its convolutions and dense layers; 0 where nothing was compressed.
        latency_one: Milliseconds with one thread; this and what follows is known of TFLite files alone.
        memory: MB that opening and running it take.
        operators: How many it has.
        floats: How many of them compute in float.
        float_layers: The layers of these, where others of the file's compute in integers.
    """

    format: str
    scores: Mapping[str, Any]
    score: float
    score_drop: float
    ci_low: float
    ci_high: float
    difference: float
    latency: float
    failure_reason: str
    agreement: float = 0.0
    bytes: int = 0
    compressed_bytes: int = 0
    sparsity: float = 0.0
    single_thread_latency: float | None = None
    memory: float | None = None
    total_ops: int | None = None
    float_ops: int | None = None
    float_layers: tuple[str, ...] = ()

    @property
    def float_layers_text(self) -> str:
        """Some of the layers that compute in float, for people to read."""
        return progress.shorten_list(self.float_layers)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in scores.json; JSON has no infinity, which is the difference of a broken file."""
        found = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("format", "scores")}
        return {**self.scores, **found, "difference": self.difference if math.isfinite(self.difference) else None}
