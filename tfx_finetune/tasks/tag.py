"""Tagging task (multi-label classification): each sample has any number of classes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.tasks.classification_metrics import compute_tagging_metrics, label_ranking_average_precision
from tfx_finetune.tasks.head import ClassWeights, Init, check_options, compute_class_weights, make_classification_head
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
    """Multi-label classification with a sigmoid and binary cross-entropy per class.

    Args:
        labels: Classes with their training counts.
        column: Column of the sample with the class names. Default `label`.
        threshold: float, between 0 and 1. Minimum score of a predicted class. Default 0.5.
        label_smoothing: float, 0 to below 1. Fraction by which each target moves to 0.5. Default 0.
        focal: float >= 0. Gamma of the focal loss (arXiv 1708.02002). Default 0: plain cross-entropy.
        class_weight: `none` or `balanced`, which weights samples inversely to the frequency of their classes.
        dropout: float, 0 to below 1. Dropout rate of the features and of the hidden layer. Default 0.2.
        hidden_units: int >= 0. Units of a hidden layer between features and classes; 0 for none. Default 0.
        init: Initializer of the head's kernel: `zeros`, `glorot`, `he`, or `prior`, which is zeros with the class
            frequencies as the bias (arXiv 1708.02002, section 3.3). Default `prior`.
    """
    check_options("tag", label_smoothing=label_smoothing, focal=focal, dropout=dropout, hidden_units=hidden_units)
    if not 0 < threshold < 1:
        raise UserError("threshold of tag() is out of range", got=threshold, expected="between 0 and 1")
    weights = compute_class_weights(labels, class_weight)
    names = tf.constant(labels.names)
    loss_class = keras.losses.BinaryFocalCrossentropy if focal else keras.losses.BinaryCrossentropy
    options: dict[str, Any] = {"gamma": focal} if focal else {}
    logit_threshold = float(np.log(threshold / (1 - threshold)))
    frequency = np.clip(np.asarray(labels.counts, np.float32) / max(labels.num_samples, 1), 0.01, 0.99)

    def threshold_accuracy(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return 1 for a score on the right side of the threshold: a single class has no ranking."""
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
        head=make_classification_head(dropout, hidden_units, init, np.log(frequency / (1 - frequency))),
        loss=loss_class(
            from_logits=True, label_smoothing=label_smoothing, reduction="mean_with_sample_weight", **options
        ),
        make_metrics=lambda: [keras.metrics.BinaryAccuracy(name="accuracy", threshold=logit_threshold)],
        monitor="mean_average_precision",
        decode=lambda outputs: {"scores": keras.ops.sigmoid(outputs["logits"])},
        compute_metrics=lambda targets, scores, full_report=True: compute_tagging_metrics(
            labels.names, targets > 0.5, scores, threshold
        ),
        per_sample_score=label_ranking_average_precision if len(labels.names) > 1 else threshold_accuracy,
        format_prediction=lambda scores: {
            "label": [name for name, score in zip(labels.names, scores, strict=True) if score >= threshold],
            "score": [float(score) for score in scores if score >= threshold],
            "scores": dict(zip(labels.names, map(float, scores), strict=True)),
        },
    )


def _average_present_weights(target: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Compute the mean class weight of the classes of a sample; 1 for a sample without classes."""
    present = tf.reduce_sum(target)
    return tf.where(present > 0, tf.reduce_sum(target * weights) / tf.maximum(present, 1.0), 1.0)
