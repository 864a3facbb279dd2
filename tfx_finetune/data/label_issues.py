"""Label errors and outliers by the features of a frozen backbone."""

from dataclasses import dataclass

import numpy as np

from tfx_finetune.core.extras import import_package

NUM_FOLDS = 5
"""Number of folds of the cross-validation."""
_REGULARIZATION_STRENGTHS = (0.1, 0.01, 0.001)  # values of C of scikit-learn's LogisticRegression
_MAX_TUNING_SAMPLES = 3_000
_NUM_NEIGHBORS = 20
_NUM_COMPONENTS = 50


@dataclass(frozen=True)
class LabelIssue:
    """Label that is probably wrong.

    Attributes:
        row: int >= 0. Row of the sample.
        score: float in [0, 1]. Out-of-fold probability of the sample's label.
        predicted_label: int >= 0. Index of the other class with the highest probability.
    """

    row: int
    score: float
    predicted_label: int


def assign_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each sample, int (n,); folds are stratified and never split a group.

    Args:
        labels: int array (n,). Class of each sample.
        groups: array (n,). Group of each sample.
        seed: Random seed.
    """
    from sklearn.model_selection import StratifiedKFold

    _, first_rows, group_ids = np.unique(groups, return_index=True, return_inverse=True)
    fold_of_group = np.zeros(len(first_rows), int)
    group_labels = labels[first_rows]
    num_folds = min(NUM_FOLDS, int(np.bincount(group_labels)[np.unique(group_labels)].min()))
    splits = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(first_rows, group_labels)
    for fold, (_, test_groups) in enumerate(splits):
        fold_of_group[test_groups] = fold
    return fold_of_group[group_ids]


def predict_out_of_fold(embeddings: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return class probabilities of each sample by a logistic regression that is fitted on the other folds.

    The regularization strength is the one with the lowest out-of-fold log loss on up to 3,000 samples.

    Args:
        embeddings: float array (n, dim). Features of the samples.
        labels: int array (n,). Class of each sample, 0 to classes - 1.
        folds: int array (n,). Fold of each sample, see `assign_folds`.

    Returns:
        Class probabilities, float (n, classes).
    """
    subset = np.random.default_rng(0).permutation(len(embeddings))[:_MAX_TUNING_SAMPLES]
    losses = {
        strength: _compute_log_loss(embeddings[subset], labels[subset], folds[subset], strength)
        for strength in _REGULARIZATION_STRENGTHS
    }
    return _predict_probs(embeddings, labels, folds, min(losses, key=lambda strength: losses[strength]))


def find_label_issues(labels: np.ndarray, pred_probs: np.ndarray) -> list[LabelIssue]:
    """Return labels that are probably wrong, the most certain first, by confident learning (arXiv 1911.00068).

    Args:
        labels: int array (n,). Class of each sample.
        pred_probs: float array (n, classes). Out-of-fold class probabilities, see `predict_out_of_fold`.

    Raises:
        UserError: If cleanlab is not installed.
    """
    cleanlab_filter = import_package("cleanlab.filter", "data")
    rows = cleanlab_filter.find_label_issues(
        labels, pred_probs, filter_by="both", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    other_probs = pred_probs.copy()
    other_probs[np.arange(len(labels)), labels] = -1
    return [LabelIssue(int(row), float(pred_probs[row, labels[row]]), int(other_probs[row].argmax())) for row in rows]


def find_embedding_outliers(embeddings: np.ndarray) -> list[tuple[int, float]]:
    """Return samples that are far from their nearest neighbors, by the local outlier factor.

    The local outlier factor (Breunig et al., SIGMOD 2000) is 1 for a sample that is as close to its neighbors as these
    are to theirs. A sample is an outlier if the logarithm of its factor is more than three interquartile ranges above
    the upper quartile (Tukey, Exploratory Data Analysis, 1977).

    Args:
        embeddings: float array (n, dim). Features of the samples.

    Returns:
        (row, factor) of each outlier, the largest factor first; empty for fewer than 40 samples.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.preprocessing import StandardScaler

    if len(embeddings) < 2 * _NUM_NEIGHBORS:
        return []
    scaled = StandardScaler().fit_transform(embeddings)
    num_components = min(_NUM_COMPONENTS, *scaled.shape)
    components = PCA(num_components, svd_solver="randomized", random_state=0).fit_transform(scaled)
    factors = -LocalOutlierFactor(_NUM_NEIGHBORS).fit(components).negative_outlier_factor_
    low, high = np.quantile(np.log(factors), (0.25, 0.75))
    rows = np.flatnonzero(np.log(factors) > high + 3 * (high - low))
    return sorted(((int(row), float(factors[row])) for row in rows), key=lambda outlier: -outlier[1])


def _predict_probs(embeddings: np.ndarray, labels: np.ndarray, folds: np.ndarray, strength: float) -> np.ndarray:
    """Return out-of-fold class probabilities for one regularization strength."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probs = np.zeros((len(embeddings), labels.max() + 1))
    for fold in np.unique(folds):
        test_mask = folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
        model.fit(embeddings[~test_mask], labels[~test_mask])
        # A class that only this fold contains has probability 0.
        probs[np.ix_(test_mask, model.classes_)] = model.predict_proba(embeddings[test_mask])
    return probs


def _compute_log_loss(embeddings: np.ndarray, labels: np.ndarray, folds: np.ndarray, strength: float) -> float:
    """Return the out-of-fold log loss for one regularization strength."""
    label_probs = _predict_probs(embeddings, labels, folds, strength)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(label_probs, 1e-6)).mean())
