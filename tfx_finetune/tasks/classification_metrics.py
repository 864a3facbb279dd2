"""Scores of classifiers and taggers, as scikit-learn computes them."""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn import metrics


def safe_divide(numerator: Any, denominator: Any) -> np.ndarray:
    """Divide counts element by element; the result is 0 where the denominator is 0.

    Examples:
        >>> safe_divide(np.array([1, 0]), np.array([4, 0])).tolist()
        [0.25, 0.0]
    """
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


def precision_recall_f1(true_positives: Any, predicted: Any, support: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute precision, recall and F1 from counts; a score is 0 where its denominator is 0.

    Args:
        true_positives: int or (classes,). Number of correct positive predictions.
        predicted: int or (classes,). Number of positive predictions.
        support: int or (classes,). Number of positive labels.

    Examples:
        >>> [float(value) for value in precision_recall_f1(np.int64(1), np.int64(2), np.int64(4))]
        [0.5, 0.25, 0.3333333333333333]
    """
    return (
        safe_divide(true_positives, predicted),
        safe_divide(true_positives, support),
        safe_divide(2 * true_positives, predicted + support),
    )


def compute_classification_metrics(names: tuple[str, ...], truth: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Compute all scores of a classifier.

    Args:
        names: Class names.
        truth: int (n,). Class indices.
        scores: float (n, classes). Probabilities.

    Returns:
        accuracy, top5_accuracy (with more than five classes), balanced_accuracy (mean recall of the classes that
        occur), log_loss, precision, recall and f1 as macro and micro averages, `per_class` (precision, recall, f1 and
        support by class), and `confusion` (rows are the truth).

    Examples:
        >>> truth, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]])
        >>> metrics = compute_classification_metrics(("cat", "dog"), truth, scores)
        >>> metrics["accuracy"], metrics["confusion"]
        (0.5, [[1, 0], [1, 0]])
    """
    indices = np.arange(len(names))
    predicted = scores.argmax(-1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=indices, zero_division=0.0
    )
    micro = metrics.precision_recall_fscore_support(
        truth, predicted, labels=indices, average="micro", zero_division=0.0
    )
    values = {
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
        values["top5_accuracy"] = metrics.top_k_accuracy_score(truth, scores, k=5, labels=indices)
    rows = zip(names, precision, recall, f1, support, strict=True)
    return {name: float(value) for name, value in values.items()} | {
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for name, p, r, f, n in rows
        },
        "confusion": metrics.confusion_matrix(truth, predicted, labels=indices).tolist(),
    }


def compute_tagging_metrics(
    names: tuple[str, ...], truth: np.ndarray, scores: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Compute all scores of a multi-label classifier; a score is 0 where its denominator is 0.

    Args:
        names: Class names.
        truth: bool (n, classes).
        scores: float (n, classes). Probabilities.
        threshold: float, 0 to 1. Minimum score of a predicted class.

    Returns:
        mean_average_precision (over the classes that occur), exact_match, log_loss (mean over classes), precision,
        recall and f1 as macro and micro averages, and `per_class`.

    Examples:
        >>> truth, scores = np.array([[True, False], [True, True]]), np.array([[0.9, 0.2], [0.8, 0.3]])
        >>> compute_tagging_metrics(("cat", "dog"), truth, scores, 0.5)["exact_match"]
        0.5
    """
    predicted = scores >= threshold
    true_positives, predicted_counts, support = (truth & predicted).sum(0), predicted.sum(0), truth.sum(0)
    precision, recall, f1 = precision_recall_f1(true_positives, predicted_counts, support)
    micro = precision_recall_f1(true_positives.sum(), predicted_counts.sum(), support.sum())
    occurs = np.asarray(truth.any(axis=0))
    precisions = [
        metrics.average_precision_score(truth[:, i], scores[:, i]) if occurs[i] else 0.0 for i in range(len(names))
    ]
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    values = {
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
    return {name: float(value) for name, value in values.items()} | {
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
    """Compute the label-ranking average precision of each sample, (n,).

    The mean is scikit-learn's `label_ranking_average_precision_score`. A sample without classes, or with all classes,
    has the value 1.

    Args:
        targets: float (n, classes). Above 0.5 for the classes of a sample.
        scores: float (n, classes).

    Examples:
        >>> label_ranking_average_precision(np.array([[1, 0, 0], [0, 1, 0]]), np.array([[0.7, 0.2, 0.1]] * 2)).tolist()
        [1.0, 0.5]
    """
    present = targets > 0.5
    rank = rankdata(-scores, "max", axis=1)
    rank_among_present = rankdata(np.where(present, -scores, np.inf), "max", axis=1)
    count = present.sum(-1)
    mean = np.where(present, rank_among_present / rank, 0.0).sum(-1) / np.maximum(count, 1)
    return np.where((count == 0) | (count == targets.shape[1]), 1.0, mean)


def _normalize_scores(scores: np.ndarray) -> np.ndarray:
    """Scale scores to the sum 1, because the outputs of a quantized file only nearly have it and can be all 0."""
    clipped = np.maximum(scores.astype(np.float64), 1e-7)
    return clipped / clipped.sum(-1, keepdims=True)
