"""Records of the verification of exported files: what a file must have, and what it has."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfx_finetune.core import progress
from tfx_finetune.types.deployment import Compression


@dataclass(frozen=True)
class VerificationResult:
    """Measurements of one exported file.

    Attributes:
        format: Format of the file.
        scores: All scores on the test split, by `<head>/<score>`.
        score: float. Mean over the heads of the scores that they monitor.
        score_drop: float. Loss of this score relative to the trained model.
        ci_low: float. Lower limit of the paired 95 % confidence interval of the drop.
        ci_high: float. Upper limit of the interval.
        difference: float. Maximum absolute difference of a decoded output from the trained model's on golden samples.
        latency: float. Median time per sample in ms, with all threads.
        failure_reason: Reason why the file fails verification; empty if it passes.
        agreement: float, 0 to 1. Fraction of the test samples with the same prediction as the trained model.
        bytes: int. Size of the file.
        compressed_bytes: int. Size of the file in a zip archive.
        sparsity: float, 0 to 1. Fraction of zeros in the kernels of convolutions and dense layers; 0 without
            compression.
        single_thread_latency: float or None. Median time per sample in ms, with one thread. This and the following
            measurements are None for files that are not TFLite.
        memory: float or None. Memory in MB to open and run the file.
        total_ops: int or None. Number of operators.
        float_ops: int or None. Number of operators that compute in float.
        float_layers: Layers of the float operators, if other operators of the file compute in integers.
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
        """The first names of `float_layers`, for messages."""
        return progress.shorten_list(self.float_layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of scores.json; the infinite difference of a broken file becomes None."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("format", "scores")}
        return {**self.scores, **fields, "difference": self.difference if math.isfinite(self.difference) else None}


@dataclass(frozen=True)
class CompressedKernels:
    """Properties that the compressions of a model give to the kernels of its files.

    Attributes:
        compressions: Compressions whose sparsity and clusters the kernels must have.
        kernel_sizes: Number of compressed kernels by size; None if all kernels are compressed.
    """

    compressions: Sequence[Compression]
    kernel_sizes: Counter[int] | None
