"""Label errors and outliers that are planted in two Gaussian clusters."""

import importlib.util

import numpy as np
import pytest

from tfx_finetune.data.embeddings import score_feature_selections
from tfx_finetune.data.label_issues import assign_folds, find_embedding_outliers, find_label_issues, predict_out_of_fold


@pytest.fixture(scope="module")
def clusters():
    """(features, labels): two clusters of 100 samples; only the first of ten features separates them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    features = rng.normal(size=(200, 10))
    features[:, 0] += 8 * labels
    return features, labels


def test_planted_label_errors_are_found(clusters):
    """At least nine of ten planted errors are found, at most two others, with the correct class."""
    if not importlib.util.find_spec("cleanlab"):
        pytest.skip("cleanlab is not installed: pip install 'tfx_finetune[data]'")
    features, true_labels = clusters
    labels = true_labels.copy()
    error_rows = np.arange(0, 200, 20)
    labels[error_rows] = 1 - labels[error_rows]
    folds = assign_folds(labels, np.arange(200), 0)
    issues = find_label_issues(labels, predict_out_of_fold(features, labels, folds))
    assert len(set(error_rows) & {issue.row for issue in issues}) >= 9
    assert len(issues) <= 12
    assert all(issue.predicted_label == true_labels[issue.row] for issue in issues if issue.row in error_rows)
    assert all(issue.score < 0.5 for issue in issues)


def test_folds_never_split_a_group():
    """Groups of two samples are in one fold; classes are distributed evenly."""
    labels, groups = np.repeat([0, 1], 20), np.arange(40) // 2
    folds = assign_folds(labels, groups, 0)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds).tolist() == [8] * 5
    assert np.bincount(folds[labels == 0]).tolist() == [4] * 5
    assert len(set(assign_folds(np.repeat([0, 1], 3), np.arange(6), 0))) == 3


def test_probabilities_of_a_sample_come_from_other_folds(clusters):
    """A class that only one fold contains has probability 0 there."""
    features, labels = clusters
    labels = labels.copy()
    labels[:5] = 2
    folds = np.where(labels == 2, 0, 1 + np.arange(200) % 4)
    probs = predict_out_of_fold(features, labels, folds)
    assert (probs[:5, 2] == 0).all()
    assert np.allclose(probs.sum(1), 1)


def test_planted_outliers_are_found(clusters):
    """Three samples far from both clusters have the largest factors; small data sets have no outliers."""
    features = clusters[0].copy()
    features[[3, 50, 150], 5] += 40
    outliers = find_embedding_outliers(features)
    assert {row for row, _ in outliers[:3]} == {3, 50, 150}
    assert len(outliers) <= 6
    assert find_embedding_outliers(features[:20]) == []


def test_feature_selections_keep_the_separating_feature(clusters):
    """Every rule keeps the accuracy; L1 regularization drops features."""
    features, labels = clusters
    folds = assign_folds(labels, np.arange(200), 0)
    scores = {row.rule: row for row in score_feature_selections(features, labels, folds, 0)}
    assert scores["all"].num_features == 10
    assert scores["top half by mutual information"].num_features == 5
    assert scores["L1-regularized"].num_features < 10
    assert min(row.score for row in scores.values()) > 0.95
