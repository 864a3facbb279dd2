"""Scores of classifiers and taggers compared with scikit-learn and with numbers by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from tfx_finetune.tasks.classification_metrics import (
    compute_classification_metrics,
    compute_tagging_metrics,
    label_ranking_average_precision,
)
from tfx_finetune.tasks.tag import tag
from tfx_finetune.types.task import ClassLabels


def names(count):
    return tuple(f"class {i}" for i in range(count))


def check_classification(truth, scores):
    count = scores.shape[1]
    scores_by_name = compute_classification_metrics(names(count), truth, scores)
    predicted, indices = scores.argmax(-1), list(range(count))
    options = {"labels": indices, "zero_division": 0.0}
    expected = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted),
        "log_loss": metrics.log_loss(truth, scores, labels=indices),
    }
    for average in ("macro", "micro"):
        for name in ("precision", "recall", "f1"):
            score = getattr(metrics, f"{name}_score")
            expected[f"{name}_{average}"] = score(truth, predicted, average=average, **options)
    if count > 5:
        expected["top5_accuracy"] = metrics.top_k_accuracy_score(truth, scores, k=5, labels=indices)
    assert {name: scores_by_name[name] for name in expected} == pytest.approx(expected)
    assert set(scores_by_name) == set(expected) | {"per_class", "confusion"}
    assert scores_by_name["confusion"] == metrics.confusion_matrix(truth, predicted, labels=indices).tolist()
    each = metrics.precision_recall_fscore_support(truth, predicted, **options)
    rows = [list(row.values()) for row in scores_by_name["per_class"].values()]
    np.testing.assert_allclose(rows, np.transpose(each))


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_classification_metrics_equal_scikit_learn(seed, classes, count):
    """Scores equal scikit-learn's, with classes that do not occur, and ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, rng.integers(1, classes + 1), count)
    scores = rng.dirichlet(np.ones(classes), count)
    if seed % 2:
        scores = rng.choice([0.1, 0.2, 0.4], (count, classes))
        scores /= scores.sum(-1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are absent
        check_classification(truth, scores)


def test_classification_metrics_of_a_constant_prediction():
    """Classes that are never predicted have a precision of 0."""
    scores = np.tile([0.1, 0.8, 0.1], (4, 1))
    values = compute_classification_metrics(names(3), np.array([0, 1, 1, 2]), scores)
    assert values["accuracy"] == 0.5
    assert values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert values["precision_macro"] == pytest.approx(0.5 / 3)
    assert values["f1_macro"] == pytest.approx((2 * 0.5 / 1.5) / 3)
    assert values["confusion"] == [[0, 1, 0], [0, 2, 0], [0, 1, 0]]


def test_classification_metrics_by_hand():
    """Five samples, two of them wrong; the second class of seven never occurs."""
    scores = np.full((5, 7), 0.02)
    for row, label in enumerate([0, 2, 2, 3, 4]):
        scores[row, label] = 0.88
    values = compute_classification_metrics(names(7), np.array([0, 0, 2, 3, 6]), scores)
    assert values["accuracy"] == pytest.approx(3 / 5)
    # Recall of the classes that occur: 1/2, 1, 1, 0.
    assert values["balanced_accuracy"] == pytest.approx(2.5 / 4)
    assert values["log_loss"] == pytest.approx(-(3 * math.log(0.88) + 2 * math.log(0.02)) / 5)
    assert values["per_class"]["class 0"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2})
    # Precision of the seven: 1, 0, 1/2, 1, 0, 0, 0.
    assert values["precision_macro"] == pytest.approx(2.5 / 7)


def test_log_loss_of_rounded_scores():
    """Scores of an 8-bit file do not sum to 1, and can be 0 for the true class."""
    values = compute_classification_metrics(names(2), np.array([0, 1]), np.array([[0.996, 0.0], [1.0, 0.0]]))
    assert math.isfinite(values["log_loss"])
    assert values["log_loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-3)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_tagging_metrics_equal_scikit_learn(seed, classes, count, threshold):
    """Scores equal scikit-learn's, with classes that never occur, samples without a class, and ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, classes)) < rng.choice([0, 0.3, 0.7], classes)
    scores = rng.random((count, classes)) if seed % 2 else rng.choice([0.2, 0.5, 0.8], (count, classes))
    values = compute_tagging_metrics(names(classes), truth, scores, threshold)
    predicted = scores >= threshold
    occurs = truth.any(0)
    expected = {
        "exact_match": metrics.accuracy_score(truth, predicted),
        "log_loss": np.mean([metrics.log_loss(truth[:, i], scores[:, i], labels=[0, 1]) for i in range(classes)]),
    }
    if occurs.any():
        expected["mean_average_precision"] = metrics.average_precision_score(
            truth[:, occurs], scores[:, occurs], average="macro"
        )
    columns = [(truth[:, i], predicted[:, i]) for i in range(classes)]
    for name in ("precision", "recall", "f1"):
        score = getattr(metrics, f"{name}_score")
        each = [score(*column, zero_division=0.0) for column in columns]
        expected[f"{name}_macro"] = np.mean(each)
        expected[f"{name}_micro"] = score(truth.ravel(), predicted.ravel(), zero_division=0.0)
        assert [row[name] for row in values["per_class"].values()] == pytest.approx(each)
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert [row["support"] for row in values["per_class"].values()] == truth.sum(0).tolist()


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_label_ranking_average_precision(seed, classes, count):
    """The values equal scikit-learn's for each sample, with ties, no classes and all classes."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, classes)) < 0.5).astype(np.float32)
    scores = rng.random((count, classes)) if seed % 2 else rng.choice([0.2, 0.5, 0.8], (count, classes))
    expected = [metrics.label_ranking_average_precision_score(t[None], s[None]) for t, s in zip(truth, scores)]  # noqa: B905
    np.testing.assert_allclose(label_ranking_average_precision(truth, scores), expected)


def test_per_sample_score_of_a_single_tag():
    """A single class has no ranking, so that its decision counts."""
    task = tag(ClassLabels(("ripe",), (5,), 10), threshold=0.4)
    values = task.per_sample_score(np.array([[1.0], [1], [0], [0]]), np.array([[0.5], [0.3], [0.3], [0.4]]))
    assert values.tolist() == [1, 0, 1, 0]


def test_mean_average_precision_by_hand():
    """Ranks 1, 0, 1 give (1/1 + 2/3) / 2; a class that never occurs does not count."""
    truth = np.array([[True, False], [False, False], [True, False]])
    values = compute_tagging_metrics(names(2), truth, np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), 0.75)
    assert values["mean_average_precision"] == pytest.approx(5 / 6)
    assert values["per_class"]["class 0"]["precision"] == 0.5
    assert values["exact_match"] == pytest.approx(1 / 3)
