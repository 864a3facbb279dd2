"""Labels in English alone: how well is a name in another language understood, with and without aligned names?

    python benchmarks/crosslingual.py [--seeds=5] [any flag of tfx_finetune.train]

Each seed has a split of its own, a fifth of the things held out. Writes a table into benchmarks/RESULTS.md, a row a
language: its mean test accuracy over the splits of scikit-learn's logistic regression on what the frozen towers give
for the English names (its strength chosen by cross-validation), of the configuration's head that learned English names
alone, and of what configs/tux_crosslingual.cfg says; and how far that is above the regression, and in the splits where
it is so the least and the most.
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
    """Runs the benchmark."""
    seeds = int(said("--seeds") or 5)
    flags = unseeded()
    run, _ = flagfile.parse_flags([flags[0], f"--flagfile={CONFIG}", *flags[1:]], Run())
    found = []
    for seed in range(seeds):
        found.append(measure(dataclasses.replace(run, seed=seed)))
        what = f"{run.backbone}, {run.auxiliary_losses}, {seed + 1} splits"
        # A split takes long: what is done is kept.
        section = " ".join(["crosslingual", *flags[1:]])
        record(section, f"Names of things, labels in English alone: {what}", "\n".join(lines(found)))


def measure(run: Run) -> tuple[Scores, Scores, Scores]:
    """Of one split, test accuracy by language: of the regression, and of equal heads without objectives and with."""
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
    """The classes, (n,), that logistic regression on the training samples finds in what the towers give of others."""
    train = cache_prepared_split(data, "train", plan.workdir)
    seen, unseen = (
        np.concatenate([given[tower] for tower in network.backbones], axis=1)
        for given in (run_towers(network, train), test)
    )
    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": np.logspace(-2, 4, 13)})
    return model.fit(seen, np.asarray(train.targets["label"]).argmax(-1)).predict(unseen)


def by_language(data: Data, right: np.ndarray) -> Scores:
    """The share of test samples, (n,), that were answered rightly, by language."""
    languages = data.table.columns["language"][data.table.split == "test"]
    return {language: float(right[languages == language].mean()) for language in sorted(set(languages))}


def lines(found: Sequence[tuple[Scores, Scores, Scores]]) -> list[str]:
    """The table: means over languages, then each language."""
    each = tuple(found[0][0])
    several = {"**mean**": each, f"**{', '.join(TAUGHT)}**": TAUGHT}
    rows = ["| language | regression | English alone | aligned | above | least | most |", f"|{'---|' * 7}"]
    for title, languages in (several | {language: (language,) for language in each}).items():
        scores = np.array([[np.mean([one[language] for language in languages]) for one in split] for split in found])
        above_it = scores[:, 2] - scores[:, 0]
        means = " | ".join(f"{value:.3f}" for value in scores.mean(0))
        rows.append(f"| {title} | {means} | {above_it.mean():+.3f} | {above_it.min():+.3f} | {above_it.max():+.3f} |")
    return rows


if __name__ == "__main__":
    main()
