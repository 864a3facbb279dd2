"""Record of a task: a head with its loss, metrics, decoding and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tfx_finetune.types.aliases import Batch

if TYPE_CHECKING:
    import keras
    import numpy as np

    from tfx_finetune.types.aliases import Symbol, Tensor
    from tfx_finetune.types.components import Features
    from tfx_finetune.types.localization import LocalizationTarget

SHARED = "shared"
"""Name of the head for all samples, beside the heads for one language or source each."""


class ClassLabels(NamedTuple):
    """Classes of a head.

    Attributes:
        names: Class names in index order.
        counts: Number of training samples of each class.
        num_samples: Number of all training samples.
        translations: Class names by language, in the same order; empty for a missing name.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    num_samples: int
    translations: Mapping[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Task:
    """Head with its loss, metrics, decoding and scores.

    Attributes:
        labels: Classes of the head.
        column: Column of the sample with the target.
        single_label: bool. True if each sample has exactly one class.
        encode: Raw column -> target tensor, in TensorFlow operations.
        weight: One target -> scalar sample weight from the class weights, in TensorFlow operations.
        head: Features -> outputs by name, with `logits` among them.
        loss: Keras loss of (target, logits).
        make_metrics: Returns new Keras metrics of (target, logits), for the progress bar.
        monitor: Name of the score that early stopping and the verification gate use; higher is better.
        decode: Outputs -> decoded outputs (`logits` -> `scores`), in `keras.ops`; part of every exported file.
        compute_metrics: (targets (n, ...), scores (n, classes), full_report=True) -> scores by name. With
            full_report=False, slow scores may be missing, but not `monitor`.
        per_sample_score: (targets, scores) -> score of each sample, 0 to 1, (n,); the mean approximates `monitor`.
        format_prediction: Scores of one sample -> fields of its JSON line: label, score, scores.
        heads_by: Column whose value selects the head of a sample (`tasks/routing.py`); empty if all heads apply.
        l2_to_shared: float >= 0. L2 penalty of a per-group head's difference from the shared head; 0: independent head.
        zero_shot: Functions for classes that are given at prediction; None for fixed classes.
        postprocess: Decoded outputs of a batch -> the argument `scores` of the functions above.
        localization: Target with a position in the image, which replaces `encode`; None for other tasks.
    """

    labels: ClassLabels
    column: str
    single_label: bool
    encode: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]
    head: Callable[[Features], dict[str, Symbol]]
    loss: keras.losses.Loss
    make_metrics: Callable[[], list[keras.metrics.Metric]]
    monitor: str
    decode: Callable[[dict[str, Symbol]], dict[str, Symbol]]
    compute_metrics: Callable[..., dict[str, Any]]
    per_sample_score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    format_prediction: Callable[[np.ndarray], dict[str, Any]]
    heads_by: str = ""
    l2_to_shared: float = 0.0
    zero_shot: ZeroShotSpace | None = None
    postprocess: Callable[[Batch], np.ndarray] = lambda outputs: outputs["scores"]
    localization: LocalizationTarget | None = None


class ZeroShotSpace(NamedTuple):
    """Functions of a head that embeds samples in the space of class names.

    Attributes:
        zero_shot_classifier: Class names -> (embedding of a sample (dim,) -> fields of its JSON line).
        retrieval_metrics: (targets (n, classes), embeddings (n, dim)) -> scores by name.
    """

    zero_shot_classifier: Callable[[Sequence[str]], Callable[[np.ndarray], dict[str, Any]]]
    retrieval_metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
