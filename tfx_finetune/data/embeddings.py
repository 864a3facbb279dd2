"""Features of a frozen backbone for every sample: label errors, outliers and feature selections based on them."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.data.fingerprints import SampleStatistics
from tfx_finetune.data.issues import DataIssue
from tfx_finetune.data.label_issues import (
    NUM_FOLDS,
    assign_folds,
    find_embedding_outliers,
    find_label_issues,
    predict_out_of_fold,
)
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.training import feature_cache
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.types.components import BACKBONES, LABEL_SEPARATOR, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

# With 1,000 samples, the mutual information of 1,280 features takes 10 s.
_MAX_SAMPLES = 1_000
_LOGISTIC_OPTIONS = {"C": 0.01, "max_iter": 200}


@dataclass(frozen=True)
class FeatureSelectionScore:
    """Accuracy of a linear classifier on features that a selection rule keeps.

    Attributes:
        rule: Name of the selection rule.
        num_features: float > 0. Number of selected features, mean over the folds.
        score: float in [0, 1]. Cross-validated accuracy.
        standard_error: float >= 0. Standard error of the accuracy over the folds.
    """

    rule: str
    num_features: float
    score: float
    standard_error: float


@dataclass(frozen=True)
class EmbeddingAnalysis:
    """Results of the analysis of backbone features.

    Attributes:
        issues: Label errors, the most certain first.
        feature_selections: Accuracy of a linear classifier on subsets of the features.
        warning: Reason why results are missing; empty if all results exist.
    """

    issues: tuple[DataIssue, ...] = ()
    feature_selections: tuple[FeatureSelectionScore, ...] = ()
    warning: str = ""


def embed_samples(plan: Plan, source: Source, column: str, table: Table) -> np.ndarray:
    """Return the pooled features of every readable sample, float32 (n, dim), in the order of the table.

    Features are read from the feature cache if an earlier command computed them.

    Args:
        plan: Plan with one tower.
        source: Data source.
        column: Name of the data column that the tower takes.
        table: Table of all samples.
    """
    table = dataclasses.replace(table, split=np.where(table.error == "", "all", "").astype(object))
    ((tower, modality_name),) = plan.modalities.items()
    backbone = BACKBONES.build(plan.towers[tower])
    modality = build_modality(plan.run, modality_name, backbone.pretrained_cfg)
    sampler = EpochSampler(plan.run.seed)
    data = Data(source, table, {tower: modality}, {tower: column}, {}, (), plan.run.batch_size, sampler)
    trunk = keras.Model(backbone.inputs, backbone.features.pooled, name="trunk")
    key = feature_cache.fingerprint(data, tower, trunk, feature_cache.feature_cache_key(plan, tower))
    apply = make_inference_fn(trunk, table.size("all"), plan.run.cache.precision)
    folder = plan.features_folder or plan.workdir / "features"
    store = feature_cache.get_or_compute(data, "all", 1, {tower: apply}, {tower: key}, folder)
    return np.asarray(store.inputs[0][tower], np.float32)


def analyze_embeddings(
    table: Table, label_column: str, rows: np.ndarray, embeddings: np.ndarray, sample_groups: np.ndarray, seed: int
) -> EmbeddingAnalysis:
    """Find label errors by cross-validation on backbone features, and score feature selections.

    Only samples with exactly one label are checked, and only classes with at least five groups of samples, because
    every fold needs a group to train on.

    Args:
        table: Table of all samples.
        label_column: Name of the label column.
        rows: int array (n,). Rows of the readable samples.
        embeddings: float array (n, dim). Features of the readable samples.
        sample_groups: object array. Group of each sample of the table, empty for none; samples of one group are in
            the same fold.
        seed: Random seed of the folds.
    """
    labels = table.columns[label_column][rows]
    groups = np.array([sample_groups[row] or f"sample {row}" for row in rows], object)
    has_one_label = np.array([bool(label) and LABEL_SEPARATOR not in label for label in labels])
    classes = [name for name in sorted(set(labels[has_one_label])) if len(set(groups[labels == name])) >= NUM_FOLDS]
    checked = np.flatnonzero(np.isin(labels, classes))
    if not has_one_label[labels != ""].all():
        return EmbeddingAnalysis(warning="Samples have several labels: label errors and features were not checked.")
    if len(classes) < 2:
        warning = f"Fewer than two classes have {NUM_FOLDS} samples: label errors and features were not checked."
        return EmbeddingAnalysis(warning=warning)
    class_ids = np.searchsorted(classes, labels[checked])
    folds = assign_folds(class_ids, groups[checked].astype(str), seed)
    label_issues, warning = [], ""
    try:
        label_issues = find_label_issues(class_ids, predict_out_of_fold(embeddings[checked], class_ids, folds))
    except UserError as error:
        # The remaining analysis works without cleanlab.
        warning = f"Label errors were not checked: {error}"
    label_errors = tuple(
        DataIssue("label_error", int(rows[checked[issue.row]]), -1, issue.score, classes[issue.predicted_label])
        for issue in label_issues
    )
    return EmbeddingAnalysis(
        label_errors, tuple(score_feature_selections(embeddings[checked], class_ids, folds, seed)), warning
    )


def find_outliers(rows: np.ndarray, embeddings: np.ndarray, statistics: SampleStatistics) -> Iterator[DataIssue]:
    """Yield samples whose features are outliers; see `find_embedding_outliers`.

    Args:
        rows: int array (n,). Rows of the readable samples.
        embeddings: float array (n, dim). Features of the readable samples.
        statistics: Statistics of the readable samples.
    """
    # Duplicates are nearest neighbors at distance 0, which distorts the outlier factor.
    _, unique_indices = np.unique(statistics.content_hashes.astype(str), return_index=True)
    for index, factor in find_embedding_outliers(embeddings[unique_indices]):
        yield DataIssue("outlier", int(rows[unique_indices[index]]), score=factor)


def score_feature_selections(
    embeddings: np.ndarray, labels: np.ndarray, folds: np.ndarray, seed: int
) -> list[FeatureSelectionScore]:
    """Return the cross-validated accuracy of logistic regression on all features and on selections of them.

    Features are selected in the training folds only; a selection on all samples would bias the accuracy upwards
    (Ambroise and McLachlan, PNAS 99(10), 2002). At most 1,000 randomly drawn samples are used.

    Args:
        embeddings: float array (n, dim). Features of the samples.
        labels: int array (n,). Class of each sample.
        folds: int array (n,). Fold of each sample, see `label_issues.assign_folds`.
        seed: Random seed.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(embeddings) > _MAX_SAMPLES:
        rows = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:_MAX_SAMPLES])
        embeddings, labels, folds = embeddings[rows], labels[rows], folds[rows]
    results = []
    rules = _make_selection_rules(embeddings, labels, seed)
    with progress.bar("select", len(rules)) as advance:
        for rule, steps in rules.items():
            num_features, accuracies = [], []
            for fold in np.unique(folds):
                test_mask = folds == fold
                model = make_pipeline(*steps, StandardScaler(), LogisticRegression(**_LOGISTIC_OPTIONS))
                model.fit(embeddings[~test_mask], labels[~test_mask])
                accuracies.append(model.score(embeddings[test_mask], labels[test_mask]))
                num_features.append(model[-1].coef_.shape[1])
            standard_error = float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))
            results.append(
                FeatureSelectionScore(rule, float(np.mean(num_features)), float(np.mean(accuracies)), standard_error)
            )
            advance(1, rule)
    return results


def _make_selection_rules(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> Mapping[str, tuple[Any, ...]]:
    """Return the pipeline steps of each feature selection rule, by the name of the rule."""
    from functools import partial

    from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold, mutual_info_classif
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC, l1_min_c

    half = max(1, embeddings.shape[1] // 2)
    mutual_information = partial(mutual_info_classif, random_state=seed, n_jobs=hardware.detect().threads)
    # Ten times the value of C below which L1 regularization selects no feature.
    strength = 10 * l1_min_c(StandardScaler().fit_transform(embeddings), labels)
    sparse = LinearSVC(penalty="l1", dual=False, C=strength, tol=1e-2, random_state=seed)
    return {
        "all": (),
        "non-constant": (VarianceThreshold(1e-8),),
        "top half by variance": (SelectKBest(_variance, k=half),),
        "top half by mutual information": (SelectKBest(mutual_information, k=half),),
        "L1-regularized": (VarianceThreshold(1e-8), StandardScaler(), SelectFromModel(sparse, threshold=1e-5)),
    }


def _variance(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the variance of each feature; the labels are part of scikit-learn's signature."""
    return embeddings.var(0)
