"""What a frozen tower gives for every sample of a data set, a vector each, and which of its numbers count."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import hardware, progress
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.training import feature_cache
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.types.components import BACKBONES, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

# Mutual information of 1,280 numbers takes 10 s for so many samples.
_MAX_SAMPLES = 1_000
_LOGISTIC_OPTIONS = {"C": 0.01, "max_iter": 200}


def embed_samples(plan: Plan, source: Source, column: str, table: Table) -> np.ndarray:
    """Runs the plan's tower over every sample that can be used, or finds in the cache what it gave before.

    Args:
        plan: Of one tower.
        source: The data.
        column: Its column that the tower takes.
        table: The samples; all that can be read are used.

    Returns:
        float32 (samples, dim), in the table's order.
    """
    table = dataclasses.replace(table, split=np.where(table.error == "", "all", "").astype(object))
    ((tower, kind),) = plan.modalities.items()
    backbone = BACKBONES.build(plan.towers[tower])
    fed = build_modality(plan.run, kind, backbone.card)
    data = Data(source, table, {tower: fed}, {tower: column}, {}, (), plan.run.batch_size, EpochSampler(plan.run.seed))
    trunk = keras.Model(backbone.inputs, backbone.features.pooled, name="trunk")
    key = feature_cache.fingerprint(data, tower, trunk, feature_cache.feature_cache_key(plan, tower))
    apply = make_inference_fn(trunk, table.size("all"), plan.run.cache.precision)
    folder = plan.features_folder or plan.workdir / "features"
    store = feature_cache.get_or_compute(data, "all", 1, {tower: apply}, {tower: key}, folder)
    return np.asarray(store.inputs[0][tower], np.float32)


@dataclass(frozen=True)
class FeatureSelectionScore:
    """What is left of a tower's numbers under one rule, and how well a linear classifier does on that.

    Attributes:
        rule: What keeps a number.
        kept: How many are kept, on the mean over the folds.
        score: Mean accuracy on the samples held out.
        error: Its standard error over the folds.
    """

    rule: str
    num_features: float
    score: float
    standard_error: float


def score_feature_selections(
    embeddings: np.ndarray, labels: np.ndarray, folds: np.ndarray, seed: int
) -> list[FeatureSelectionScore]:
    """Cross-validated accuracy of logistic regression on all numbers, and on those that three rules keep.

    The rules see the training folds alone, else the scores would be too high (Ambroise and McLachlan, PNAS 99(10),
    2002). Of more than 1,000 samples so many are drawn.

    Args:
        points: (n, dim).
        labels: Class of each, (n,).
        folds: Fold of each, (n,); see `noise.folds`.
        seed: Of the draw.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(embeddings) > _MAX_SAMPLES:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:_MAX_SAMPLES])
        embeddings, labels, folds = embeddings[chosen], labels[chosen], folds[chosen]
    found = []
    rules = _make_selection_rules(embeddings, labels, seed)
    with progress.bar("select", len(rules)) as advance:
        for rule, steps in rules.items():
            kept, scores = [], []
            for fold in np.unique(folds):
                out = folds == fold
                model = make_pipeline(*steps, StandardScaler(), LogisticRegression(**_LOGISTIC_OPTIONS))
                model.fit(embeddings[~out], labels[~out])
                scores.append(model.score(embeddings[out], labels[out]))
                kept.append(model[-1].coef_.shape[1])
            error = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
            found.append(FeatureSelectionScore(rule, float(np.mean(kept)), float(np.mean(scores)), error))
            advance(1, rule)
    return found


def _make_selection_rules(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> Mapping[str, tuple[Any, ...]]:
    from functools import partial

    from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold, mutual_info_classif
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC, l1_min_c

    half = max(1, embeddings.shape[1] // 2)
    information = partial(mutual_info_classif, random_state=seed, n_jobs=hardware.detect().threads)
    # Ten times the strength at which the first number comes in.
    strength = 10 * l1_min_c(StandardScaler().fit_transform(embeddings), labels)
    sparse = LinearSVC(penalty="l1", dual=False, C=strength, tol=1e-2, random_state=seed)
    return {
        "all": (),
        "not constant": (VarianceThreshold(1e-8),),
        "half, by variance": (SelectKBest(_variance, k=half),),
        "half, by mutual information": (SelectKBest(information, k=half),),
        "by L1": (VarianceThreshold(1e-8), StandardScaler(), SelectFromModel(sparse, threshold=1e-5)),
    }


def _variance(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return embeddings.var(0)
