"""Wrong labels and outliers that were planted among points of two clouds."""

import importlib.util

import numpy as np
import pytest

from tfx_finetune.data.embeddings import score_feature_selections
from tfx_finetune.data.label_issues import assign_folds, find_embedding_outliers, find_label_issues, predict_out_of_fold


@pytest.fixture(scope="module")
def clouds():
    """Two clouds of 100 points in 10 numbers, of which the first alone tells them apart; (points, labels)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    points = rng.normal(size=(200, 10))
    points[:, 0] += 8 * labels
    return points, labels


def test_planted_labels_are_found(clouds):
    """Nine of ten at least, and hardly any other; each with the class that it is of."""
    if not importlib.util.find_spec("cleanlab"):
        pytest.skip("cleanlab is not installed: pip install 'tfx_finetune[data]'")
    points, truth = clouds
    labels = truth.copy()
    wrong = np.arange(0, 200, 20)
    labels[wrong] = 1 - labels[wrong]
    found = find_label_issues(labels, predict_out_of_fold(points, labels, assign_folds(labels, np.arange(200), 0)))
    assert len(set(wrong) & {doubt.row for doubt in found}) >= 9
    assert len(found) <= 12
    assert all(doubt.predicted_label == truth[doubt.row] for doubt in found if doubt.row in wrong)
    assert all(doubt.score < 0.5 for doubt in found)


def test_folds_divide_no_group():
    """Groups of two lie in one fold; classes are spread evenly."""
    labels, group = np.repeat([0, 1], 20), np.arange(40) // 2
    fold = assign_folds(labels, group, 0)
    assert (fold[::2] == fold[1::2]).all()
    assert np.bincount(fold).tolist() == [8] * 5
    assert np.bincount(fold[labels == 0]).tolist() == [4] * 5
    assert len(set(assign_folds(np.repeat([0, 1], 3), np.arange(6), 0))) == 3


def test_the_chances_of_a_sample_come_from_others(clouds):
    """A class that one fold alone has gets no chance there: nothing else could know it."""
    points, labels = clouds
    labels = labels.copy()
    labels[:5] = 2
    fold = np.where(labels == 2, 0, 1 + np.arange(200) % 4)
    chances = predict_out_of_fold(points, labels, fold)
    assert (chances[:5, 2] == 0).all()
    assert np.allclose(chances.sum(1), 1)


def test_planted_outliers_are_found(clouds):
    """Three points far from both clouds are the farthest; few others are named, and of few points none."""
    points = clouds[0].copy()
    points[[3, 50, 150], 5] += 40
    found = find_embedding_outliers(points)
    assert {row for row, _ in found[:3]} == {3, 50, 150}
    assert len(found) <= 6
    assert find_embedding_outliers(points[:20]) == []


def test_selection_keeps_what_tells_the_classes_apart(clouds):
    """One number of ten does; every rule keeps the score, L1 with the fewest."""
    points, labels = clouds
    found = {
        row.rule: row for row in score_feature_selections(points, labels, assign_folds(labels, np.arange(200), 0), 0)
    }
    assert found["all"].num_features == 10
    assert found["half, by mutual information"].num_features == 5
    assert found["by L1"].num_features < 10
    assert min(row.score for row in found.values()) > 0.95
