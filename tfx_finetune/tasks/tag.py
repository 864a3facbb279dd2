"""Tagging (multi-label classification): each sample has any number of the classes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import rankdata
from sklearn import metrics

from tfx_finetune.core.errors import UserError
from tfx_finetune.tasks.head import ClassWeights, Init, check_options, compute_class_weights, make_classification_head
from tfx_finetune.tasks.precision_recall import precision_recall_f1
from tfx_finetune.types.components import LABEL_SEPARATOR, TASKS
from tfx_finetune.types.task import ClassLabels, Task


@TASKS.register
def tag(
    labels: ClassLabels,
    /,
    *,
    column: str = "label",
    threshold: float = 0.5,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    class_weight: ClassWeights = "none",
    dropout: float = 0.2,
    hidden_units: int = 0,
    init: Init = "prior",
) -> Task:
    """Any number of classes a sample: a sigmoid and binary cross-entropy for each.

    Args:
        labels: The classes and their training counts.
        column: The sample's column with the class names.
        threshold: Score from which a class counts as present, between 0 and 1.
        label_smoothing: Share of each target moved towards 0.5, 0 to below 1.
        focal: Gamma of the focal loss (arXiv 1708.02002); 0 is plain cross-entropy.
        class_weight: `balanced` weighs samples inversely to the frequency of their classes.
        dropout: Share of features, and of the hidden layer, dropped in training, 0 to below 1.
        hidden: Numbers of a layer between features and classes; 0 for none.
        init: Of the head's kernel; `prior` is zeros with the frequencies of the classes as bias (arXiv 1708.02002,
            section 3.3).
    """
    check_options(label_smoothing=label_smoothing, focal=focal, dropout=dropout, hidden_units=hidden_units)
    if not 0 < threshold < 1:
        raise UserError("threshold is out of range", got=threshold, expected="between 0 and 1")
    weights = compute_class_weights(labels, class_weight)
    names = tf.constant(labels.names)
    make = keras.losses.BinaryFocalCrossentropy if focal else keras.losses.BinaryCrossentropy
    options: dict[str, Any] = {"gamma": focal} if focal else {}
    limit = float(np.log(threshold / (1 - threshold)))  # of logits
    frequency = np.clip(np.asarray(labels.counts, np.float32) / max(labels.num_samples, 1), 0.01, 0.99)

    def decided(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """In place of a ranking, which a single class has not: whether it is on the right side of the threshold."""
        return ((targets > 0.5) == (scores >= threshold)).mean(-1)

    def encode(text: tf.Tensor) -> tf.Tensor:
        present = tf.strings.split(text, LABEL_SEPARATOR)
        return tf.cast(tf.reduce_any(names[:, None] == present[None, :], axis=1), tf.float32)

    return Task(
        labels=labels,
        column=column,
        single_label=False,
        encode=encode,
        weight=lambda target: _average_present_weights(target, tf.constant(weights)),
        head=make_classification_head(labels, dropout, hidden_units, init, np.log(frequency / (1 - frequency))),
        loss=make(from_logits=True, label_smoothing=label_smoothing, reduction="mean_with_sample_weight", **options),
        make_metrics=lambda: [keras.metrics.BinaryAccuracy(name="accuracy", threshold=limit)],
        monitor="mean_average_precision",
        decode=lambda outputs: {"scores": keras.ops.sigmoid(outputs["logits"])},
        compute_metrics=lambda targets, scores, full_report=True: compute_tagging_metrics(
            labels.names, targets > 0.5, scores, threshold
        ),
        per_sample_score=label_ranking_average_precision if len(labels.names) > 1 else decided,
        format_prediction=lambda scores: {
            "label": [name for name, score in zip(labels.names, scores, strict=True) if score >= threshold],
            "score": [float(score) for score in scores if score >= threshold],
            "scores": dict(zip(labels.names, map(float, scores), strict=True)),
        },
    )


def compute_tagging_metrics(
    names: tuple[str, ...], truth: np.ndarray, scores: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Every score of a tagger, as scikit-learn defines it; what divides by zero is 0.

    Args:
        names: Class names.
        truth: Booleans, (n, classes).
        scores: Probabilities, (n, classes).
        threshold: Score from which a class counts as present.

    Returns:
        mean_average_precision (over the classes that occur), exact_match, log_loss (mean over classes), precision,
        recall and f1 as macro and micro averages, and `per_class`.
    """
    predicted = scores >= threshold
    hits, said, support = (truth & predicted).sum(0), predicted.sum(0), truth.sum(0)
    precision, recall, f1 = precision_recall_f1(hits, said, support)
    micro = precision_recall_f1(hits.sum(), said.sum(), support.sum())
    occurs = np.asarray(truth.any(axis=0))
    precisions = [
        metrics.average_precision_score(truth[:, i], scores[:, i]) if occurs[i] else 0.0 for i in range(len(names))
    ]
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    found = {
        "mean_average_precision": np.mean(np.asarray(precisions)[occurs]) if occurs.any() else 0.0,
        "exact_match": (truth == predicted).all(axis=1).mean(),
        "log_loss": -np.where(truth, np.log(clipped), np.log1p(-clipped)).mean(),
        "precision_macro": precision.mean(),
        "recall_macro": recall.mean(),
        "f1_macro": f1.mean(),
        "precision_micro": micro[0],
        "recall_micro": micro[1],
        "f1_micro": micro[2],
    }
    rows = zip(names, precision, recall, f1, support, precisions, strict=True)
    return {name: float(value) for name, value in found.items()} | {
        "per_class": {
            name: {
                "precision": float(p),
                "recall": float(r),
                "f1": float(f),
                "support": int(n),
                "average_precision": float(a),
            }
            for name, p, r, f, n, a in rows
        },
    }


def label_ranking_average_precision(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Label-ranking average precision of each sample, (n,); 1 for a sample without or with all classes.

    Its mean is scikit-learn's `label_ranking_average_precision_score`.
    """
    present = targets > 0.5
    rank = rankdata(-scores, "max", axis=1)
    hits = rankdata(np.where(present, -scores, np.inf), "max", axis=1)  # the rank among the present classes alone
    count = present.sum(-1)
    mean = np.where(present, hits / rank, 0.0).sum(-1) / np.maximum(count, 1)
    return np.where((count == 0) | (count == targets.shape[1]), 1.0, mean)


def _average_present_weights(target: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    present = tf.reduce_sum(target)
    return tf.where(present > 0, tf.reduce_sum(target * weights) / tf.maximum(present, 1.0), 1.0)
