"""Classification: each sample has exactly one of the classes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn import metrics

from tfx_finetune.core.errors import UserError
from tfx_finetune.tasks.head import ClassWeights, Init, check_options, compute_class_weights, make_classification_head
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels, Task


@TASKS.register
def classify(
    labels: ClassLabels,
    /,
    *,
    column: str = "label",
    label_smoothing: float = 0.1,
    focal: float = 0.0,
    class_weight: ClassWeights = "none",
    logit_adjust: float = 0.0,
    dropout: float = 0.2,
    hidden_units: int = 0,
    init: Init = "zeros",
    heads_by: str = "",
    l2_to_shared: float = 0.01,
    adapter_dim: int = 0,
) -> Task:
    """One class a sample: softmax and cross-entropy.

    Args:
        labels: The classes and their training counts.
        column: The sample's column with the class name.
        label_smoothing: Share of the target spread over all classes (Szegedy et al., arXiv 1512.00567), 0 to below 1.
        focal: Gamma of the focal loss (arXiv 1708.02002); 0 is plain cross-entropy.
        class_weight: `balanced` weighs samples inversely to the frequency of their class.
        logit_adjust: Strength (1 in the paper) with which rare classes are favoured in training, by adding the log of
            the class frequencies to the logits of the loss (Menon et al., arXiv 2007.07314, equation 10).
        dropout: Share of features, and of the hidden layer, dropped in training, 0 to below 1.
        hidden: Numbers of a layer between features and classes; 0 for none.
        init: Of the head's kernel; `prior` is zeros with the frequencies of the classes as bias (arXiv 1708.02002,
            section 3.3).
        per: A column such as `language`: each of its values gets a head of its own, named after it, beside one for all
            (`shared`) and one that tells the value (named after the column).
        pool: With `per`, how strongly those heads are held to the shared one: the L2 penalty of what each adds to its
            logits, so that a language of few samples borrows from the others (partial pooling: Gelman and Hill, Data
            Analysis Using Regression and Multilevel Models, 2007, chapter 12). 0: apart, each with its own classes.
        adapter: With `per`, numbers of a residual bottleneck below each of those heads (Houlsby et al., arXiv
            1902.00751), at first the identity; 0 for none.
    """
    check_options(label_smoothing=label_smoothing, focal=focal, dropout=dropout, hidden_units=hidden_units)
    if min(logit_adjust, l2_to_shared, adapter_dim) < 0:
        received = f"logit_adjust={logit_adjust}, pool={l2_to_shared}, adapter={adapter_dim}"
        raise UserError("classify is out of range", got=received, expected="0 or more")
    weights = compute_class_weights(labels, class_weight)
    names = tf.constant(labels.names)
    frequency = np.log(np.maximum(np.asarray(labels.counts, np.float32), 0.5) / max(labels.num_samples, 1))
    reduction = "mean_with_sample_weight"
    if focal:
        loss = keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=focal, from_logits=True, label_smoothing=label_smoothing, reduction=reduction
        )
    else:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction=reduction
        )
    if logit_adjust:
        loss = _adjust_logits(loss, logit_adjust * frequency)
    return Task(
        labels=labels,
        column=column,
        single_label=True,
        encode=lambda name: tf.cast(names == name, tf.float32),
        weight=lambda target: tf.gather(weights, tf.argmax(target)),
        head=make_classification_head(
            labels,
            dropout,
            hidden_units,
            init,
            frequency,
            l2_to_shared if heads_by else 0.0,
            adapter_dim if heads_by else 0,
        ),
        loss=loss,
        make_metrics=lambda: [keras.metrics.CategoricalAccuracy(name="accuracy")],
        monitor="accuracy",
        decode=lambda outputs: {"scores": keras.ops.softmax(outputs["logits"])},
        compute_metrics=lambda targets, scores, full_report=True: compute_classification_metrics(
            labels.names, targets.argmax(-1), scores
        ),
        per_sample_score=lambda targets, scores: (targets.argmax(-1) == scores.argmax(-1)).astype(np.float64),
        format_prediction=lambda scores: {
            "label": labels.names[int(scores.argmax())],
            "score": float(scores.max()),
            "scores": dict(zip(labels.names, map(float, scores), strict=True)),
        },
        heads_by=heads_by,
        l2_to_shared=l2_to_shared if heads_by else 0.0,
    )


def compute_classification_metrics(names: tuple[str, ...], truth: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Every score of a classifier, as scikit-learn computes it.

    Args:
        names: Class names.
        truth: Class indices, (n,).
        scores: Probabilities, (n, classes).

    Returns:
        accuracy, top5_accuracy (where there are more than five classes), balanced_accuracy (mean recall of the
        classes that occur), log_loss, precision, recall and f1 as macro and micro averages, `per_class`
        (precision, recall, f1, support by class), and `confusion` (rows are the truth).
    """
    indices = np.arange(len(names))
    predicted = scores.argmax(-1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=indices, zero_division=0.0
    )
    micro = metrics.precision_recall_fscore_support(
        truth, predicted, labels=indices, average="micro", zero_division=0.0
    )
    found = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": recall[support > 0].mean(),
        "log_loss": metrics.log_loss(truth, _normalize_scores(scores), labels=indices),
        "precision_macro": precision.mean(),
        "recall_macro": recall.mean(),
        "f1_macro": f1.mean(),
        "precision_micro": micro[0],
        "recall_micro": micro[1],
        "f1_micro": micro[2],
    }
    if len(names) > 5:
        found["top5_accuracy"] = metrics.top_k_accuracy_score(truth, scores, k=5, labels=indices)
    rows = zip(names, precision, recall, f1, support, strict=True)
    return {name: float(value) for name, value in found.items()} | {
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for name, p, r, f, n in rows
        },
        "confusion": metrics.confusion_matrix(truth, predicted, labels=indices).tolist(),
    }


def _adjust_logits(loss: keras.losses.Loss, offset: np.ndarray) -> keras.losses.Loss:
    """The loss of logits to which the offset, (classes,), is added."""
    plain = loss.call
    loss.call = lambda target, logits: plain(target, logits + offset)
    return loss


def _normalize_scores(scores: np.ndarray) -> np.ndarray:
    """Scores that sum to one: those of a quantized file do only nearly, and may be zero."""
    clipped = np.maximum(scores.astype(np.float64), 1e-7)
    return clipped / clipped.sum(-1, keepdims=True)
