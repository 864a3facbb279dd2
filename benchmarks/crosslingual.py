"""Measure zero-shot transfer from English labels to other languages, with and without aligned translations.

    python benchmarks/crosslingual.py [--seeds=5] [any flag of tfx_finetune.train]

Each seed has its own split with a fifth of the objects in the test split. Writes a table into benchmarks/RESULTS.md
with one row per language: mean test accuracy of scikit-learn's logistic regression on frozen features of the English
names (with cross-validated strength), of the configured head trained on English only, and of
configs/tux_crosslingual.cfg; then the mean, smallest and largest gain over the regression.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from results import get_argv_without_seeds, get_flag, record
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import split_model
from tfx_finetune.report.modality_ablation import run_towers
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import set_up, training_context
from tfx_finetune.training.phase_data import cache_prepared_split, precompute_features
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.plan import Plan

CONFIG = Path(__file__).parent.parent / "configs" / "tux_crosslingual.cfg"
Scores = dict[str, float]
PRETRAINING_LANGUAGES = ("es", "fr", "de", "it", "pt", "ru", "zh_TW", "ja", "ko", "ar", "tr")
"""Pretraining languages of the tower other than English; the table has their mean."""


def main() -> None:
    """Run the benchmark."""
    seeds = int(get_flag("--seeds") or 5)
    flags = get_argv_without_seeds()
    run, _ = flagfile.parse_flags([flags[0], f"--flagfile={CONFIG}", *flags[1:]], Run())
    splits = []
    for seed in range(seeds):
        splits.append(measure(dataclasses.replace(run, seed=seed)))
        title = f"{run.backbone}, {run.auxiliary_losses}, {seed + 1} splits"
        # Splits take long, so the table is written after each.
        section = " ".join(["crosslingual", *flags[1:]])
        record(section, f"Names of things, labels in English only: {title}", "\n".join(format_table(splits)))


def measure(run: Run) -> tuple[Scores, Scores, Scores]:
    """Return the test accuracy by language of one split: regression, head, head with auxiliary losses."""
    with tempfile.TemporaryDirectory() as folder:
        keras.backend.clear_session()
        plan = check(dataclasses.replace(run, workdir=folder))
        data, network, context = set_up(plan)
        precompute_features(network, data, context)
        _, top = split_model(network, "0")
        test, start = cache_prepared_split(data, "test", plan.workdir), top.get_weights()
        test_features, truth = run_towers(network, test), test.targets["label"].argmax(-1)
        scores = [
            compute_accuracy_by_language(data, predict_with_regression(network, data, plan, test_features) == truth)
        ]
        for name, auxiliary_losses in {"alone": {}, "aligned": plan.auxiliary_losses}.items():
            variant = dataclasses.replace(plan, auxiliary_losses=auxiliary_losses, workdir=Path(folder) / name)
            top.set_weights(start)
            for phase_name, phase in variant.phases.items():
                fit_phase(network, phase_name, phase, data, training_context(variant))
            logits = top.predict(test_features, batch_size=256, verbose=0)["label/logits"]
            scores.append(compute_accuracy_by_language(data, logits.argmax(-1) == truth))
        return scores[0], scores[1], scores[2]


def predict_with_regression(network: Network, data: Data, plan: Plan, test_features: Batch) -> np.ndarray:
    """Return the classes (n,) that logistic regression on frozen training features predicts for other features."""
    train = cache_prepared_split(data, "train", plan.workdir)
    x_train, x_test = (
        np.concatenate([features[tower] for tower in network.backbones], axis=1)
        for features in (run_towers(network, train), test_features)
    )
    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": np.logspace(-2, 4, 13)})
    return model.fit(x_train, np.asarray(train.targets["label"]).argmax(-1)).predict(x_test)


def compute_accuracy_by_language(data: Data, is_correct: np.ndarray) -> Scores:
    """Return the fraction of correctly classified test samples (n,) by language."""
    languages = data.table.columns["language"][data.table.split == "test"]
    return {language: float(is_correct[languages == language].mean()) for language in sorted(set(languages))}


def format_table(splits: Sequence[tuple[Scores, Scores, Scores]]) -> list[str]:
    """Return the Markdown table: means over languages, then each language."""
    all_languages = tuple(splits[0][0])
    groups = {"**mean**": all_languages, f"**{', '.join(PRETRAINING_LANGUAGES)}**": PRETRAINING_LANGUAGES}
    rows = [
        "| language | regression | English only | with align() | gain | smallest gain | largest gain |",
        f"|{'---|' * 7}",
    ]
    for title, languages in (groups | {language: (language,) for language in all_languages}).items():
        scores = np.array(
            [
                [np.mean([method_scores[language] for language in languages]) for method_scores in split]
                for split in splits
            ]
        )
        gains = scores[:, 2] - scores[:, 0]
        means = " | ".join(f"{value:.3f}" for value in scores.mean(0))
        rows.append(f"| {title} | {means} | {gains.mean():+.3f} | {gains.min():+.3f} | {gains.max():+.3f} |")
    return rows


if __name__ == "__main__":
    main()
