"""Labels that are probably wrong, and samples unlike all others, by what a frozen tower sees."""

from dataclasses import dataclass

import numpy as np

from tfx_finetune.core.extras import import_package

NUM_FOLDS = 5
_REGULARIZATION_STRENGTHS = (0.1, 0.01, 0.001)
_MAX_TUNING_SAMPLES = 3_000
_NUM_NEIGHBORS = 20
_NUM_COMPONENTS = 50


@dataclass(frozen=True)
class LabelIssue:
    """A label that is probably wrong.

    Attributes:
        row: Position of the sample.
        score: The chance of its own label, in [0, 1], by classifiers that did not see it.
        better: Position of the class that they hold for likelier.
    """

    row: int
    score: float
    predicted_label: int


def assign_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each sample, (n,): stratified, a group never divided.

    Args:
        labels: Class of each, (n,).
        groups: Number of the group of each, (n,).
        seed: Another seed gives other folds.
    """
    from sklearn.model_selection import StratifiedKFold

    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    fold = np.zeros(len(first), int)
    count = min(NUM_FOLDS, int(np.bincount(labels[first])[np.unique(labels[first])].min()))
    cut = StratifiedKFold(count, shuffle=True, random_state=seed).split(first, labels[first])
    for number, (_, out) in enumerate(cut):
        fold[out] = number
    return fold[member]


def predict_out_of_fold(embeddings: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Chances of the classes for each sample, by a logistic regression that was fitted on the other folds.

    Its strength of regularization is the one with the least log loss on samples held out, of a part of the data.

    Args:
        points: (n, dim).
        labels: Class of each, 0 to classes - 1, (n,).
        fold: See `folds`.

    Returns:
        float (n, classes).
    """
    part = np.random.default_rng(0).permutation(len(embeddings))[:_MAX_TUNING_SAMPLES]
    losses = {
        strength: _compute_log_loss(embeddings[part], labels[part], fold[part], strength)
        for strength in _REGULARIZATION_STRENGTHS
    }
    return _predict_probs(embeddings, labels, fold, min(losses, key=lambda strength: losses[strength]))


def find_label_issues(labels: np.ndarray, pred_probs: np.ndarray) -> list[LabelIssue]:
    """Labels that are probably wrong, the surest first: confident learning (Northcutt et al., arXiv 1911.00068).

    Args:
        labels: Class of each sample, (n,).
        chances: See `out_of_fold`.

    Raises:
        UserError: cleanlab is not installed.
    """
    cleanlab = import_package("cleanlab.filter", "data")
    rows = cleanlab.find_label_issues(
        labels, pred_probs, filter_by="both", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    others = pred_probs.copy()
    others[np.arange(len(labels)), labels] = -1
    return [LabelIssue(int(row), float(pred_probs[row, labels[row]]), int(others[row].argmax())) for row in rows]


def find_embedding_outliers(embeddings: np.ndarray) -> list[tuple[int, float]]:
    """Samples that lie far from their nearest ones, by the local outlier factor (Breunig et al., SIGMOD 2000).

    Args:
        points: (n, dim).

    Returns:
        (position, factor) of those above the upper quartile by three times the distance between the quartiles (Tukey,
        Exploratory Data Analysis, 1977) of the factor's logarithm; the farthest first. 1 is the factor of a sample
        that lies as close as its neighbours do.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.preprocessing import StandardScaler

    if len(embeddings) < 2 * _NUM_NEIGHBORS:
        return []
    scaled = StandardScaler().fit_transform(embeddings)
    size = min(_NUM_COMPONENTS, *scaled.shape)
    flat = PCA(size, svd_solver="randomized", random_state=0).fit_transform(scaled)
    factor = -LocalOutlierFactor(_NUM_NEIGHBORS).fit(flat).negative_outlier_factor_
    low, high = np.quantile(np.log(factor), (0.25, 0.75))
    far = np.flatnonzero(np.log(factor) > high + 3 * (high - low))
    return sorted(((int(row), float(factor[row])) for row in far), key=lambda found: -found[1])


def _predict_probs(embeddings: np.ndarray, labels: np.ndarray, fold: np.ndarray, strength: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.zeros((len(embeddings), labels.max() + 1))
    for number in np.unique(fold):
        out = fold == number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
        model.fit(embeddings[~out], labels[~out])
        # The others may lack a class.
        found[np.ix_(out, model.classes_)] = model.predict_proba(embeddings[out])
    return found


def _compute_log_loss(embeddings: np.ndarray, labels: np.ndarray, fold: np.ndarray, strength: float) -> float:
    chances = _predict_probs(embeddings, labels, fold, strength)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chances, 1e-6)).mean())
