"""Measure zero-shot transfer from English labels to other languages, with and without aligned translations.

    python benchmarks/crosslingual.py [--seeds=5] [any flag of tfx_finetune.train]

Each seed has its own split with a fifth of the things in the test split. Writes a table into benchmarks/RESULTS.md with
one row per language: mean test accuracy of scikit-learn's logistic regression on frozen features of the English names
(with cross-validated strength), of the configured head trained on English only, and of configs/tux_crosslingual.cfg;
then the mean, smallest and largest gain over the regression.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from results import record, said, unseeded
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
TAUGHT = ("es", "fr", "de", "it", "pt", "ru", "zh_TW", "ja", "ko", "ar", "tr")
"""Languages that the tower was pretrained on, beside English, whose mean is given too."""


def main() -> None:
    """Run the benchmark."""
    seeds = int(said("--seeds") or 5)
    flags = unseeded()
    run, _ = flagfile.parse_flags([flags[0], f"--flagfile={CONFIG}", *flags[1:]], Run())
    found = []
    for seed in range(seeds):
        found.append(measure(dataclasses.replace(run, seed=seed)))
        what = f"{run.backbone}, {run.auxiliary_losses}, {seed + 1} splits"
        # A split takes long: what is done is kept.
        section = " ".join(["crosslingual", *flags[1:]])
        record(section, f"Names of things, labels in English only: {what}", "\n".join(lines(found)))


def measure(run: Run) -> tuple[Scores, Scores, Scores]:
    """Return the test accuracy by language of one split: regression, head, head with auxiliary losses."""
    with tempfile.TemporaryDirectory() as folder:
        keras.backend.clear_session()
        plan = check(dataclasses.replace(run, workdir=folder))
        data, network, context = set_up(plan)
        precompute_features(network, data, context)
        _, top = split_model(network, "0")
        test, start = cache_prepared_split(data, "test", plan.workdir), top.get_weights()
        joints, truth = run_towers(network, test), test.targets["label"].argmax(-1)
        found = [by_language(data, regression(network, data, plan, joints) == truth)]
        for name, objectives in {"alone": {}, "aligned": plan.auxiliary_losses}.items():
            own = dataclasses.replace(plan, auxiliary_losses=objectives, workdir=Path(folder) / name)
            top.set_weights(start)
            for phase, how in own.phases.items():
                fit_phase(network, phase, how, data, training_context(own))
            logits = top.predict(joints, batch_size=256, verbose=0)["label/logits"]
            found.append(by_language(data, logits.argmax(-1) == truth))
        return found[0], found[1], found[2]


def regression(network: Network, data: Data, plan: Plan, test: Batch) -> np.ndarray:
    """Return the classes (n,) that logistic regression on frozen training features predicts for other features."""
    train = cache_prepared_split(data, "train", plan.workdir)
    seen, unseen = (
        np.concatenate([given[tower] for tower in network.backbones], axis=1)
        for given in (run_towers(network, train), test)
    )
    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": np.logspace(-2, 4, 13)})
    return model.fit(seen, np.asarray(train.targets["label"]).argmax(-1)).predict(unseen)


def by_language(data: Data, right: np.ndarray) -> Scores:
    """Return the fraction of correctly classified test samples (n,) by language."""
    languages = data.table.columns["language"][data.table.split == "test"]
    return {language: float(right[languages == language].mean()) for language in sorted(set(languages))}


def lines(found: Sequence[tuple[Scores, Scores, Scores]]) -> list[str]:
    """Return the Markdown table: means over languages, then each language."""
    each = tuple(found[0][0])
    several = {"**mean**": each, f"**{', '.join(TAUGHT)}**": TAUGHT}
    rows = [
        "| language | regression | English only | with align() | gain | smallest gain | largest gain |",
        f"|{'---|' * 7}",
    ]
    for title, languages in (several | {language: (language,) for language in each}).items():
        scores = np.array([[np.mean([one[language] for language in languages]) for one in split] for split in found])
        above_it = scores[:, 2] - scores[:, 0]
        means = " | ".join(f"{value:.3f}" for value in scores.mean(0))
        rows.append(f"| {title} | {means} | {above_it.mean():+.3f} | {above_it.min():+.3f} | {above_it.max():+.3f} |")
    return rows


if __name__ == "__main__":
    main()
