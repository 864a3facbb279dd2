"""Labels in English alone: how well is a name in another language understood, with and without aligned names?

    python benchmarks/crosslingual.py [--seeds=5] [any flag of tfx_finetune.train]

Each seed has a split of its own, a quarter of the things held out. Writes a table into benchmarks/RESULTS.md, a row a
language: its mean test accuracy over the splits of a head that learned English names alone on the frozen tower, and of
what configs/tux_crosslingual.cfg says; and the lowest and the highest difference of a split.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from results import record, said, unseeded

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.model import cut
from tfx_finetune.phases import fit_phase
from tfx_finetune.pipeline import Data
from tfx_finetune.plan import check
from tfx_finetune.setup import set_up
from tfx_finetune.training.feed import feed_ahead, prepared

CONFIG = Path(__file__).parent.parent / "configs" / "tux_crosslingual.cfg"
Scores = dict[str, float]
TAUGHT = ("es", "fr", "de", "it", "pt", "ru", "zh_TW", "ja", "ko", "ar", "tr")
"""Languages that the tower was pretrained on, beside English, whose mean is given too."""


def main() -> None:
    """Runs the benchmark."""
    seeds = int(said("--seeds") or 5)
    flags = unseeded()
    run, _ = flagfile.parse([flags[0], f"--flagfile={CONFIG}", *flags[1:]], Run())
    found = []
    for seed in range(seeds):
        found.append(measure(dataclasses.replace(run, seed=seed)))
        frozen, aligned = zip(*found, strict=True)
        title = f"Names of things, labels in English alone: {run.backbone}, {run.objectives}, {seed + 1} splits"
        # A split takes long: what is done is kept.
        record(" ".join(["crosslingual", *flags[1:]]), title, "\n".join(lines(frozen, aligned)))


def measure(run: Run) -> tuple[Scores, Scores]:
    """Of one split, test accuracy by language without objectives and with them, of heads that begin equal."""
    with tempfile.TemporaryDirectory() as folder:
        keras.backend.clear_session()
        plan = check(dataclasses.replace(run, workdir=folder))
        data, network = set_up(plan)
        feed_ahead(network, data, plan)
        trunks, top = cut(network, "0")
        test, start = prepared(data, "test", plan), top.get_weights()
        joints = {"text": trunks["text"].predict(test.inputs[0]["text"], batch_size=256, verbose=0)}
        found = []
        for name, objectives in {"alone": {}, "aligned": plan.objectives}.items():
            own = dataclasses.replace(plan, objectives=objectives, workdir=Path(folder) / name)
            top.set_weights(start)
            for phase, how in own.phases.items():
                fit_phase(network, phase, how, data, own)
            logits = top.predict(joints, batch_size=256, verbose=0)["label/logits"]
            found.append(by_language(data, logits.argmax(-1) == test.targets["label"].argmax(-1)))
        return found[0], found[1]


def by_language(data: Data, right: np.ndarray) -> Scores:
    """The share of test samples, (n,), that were answered rightly, by language."""
    languages = data.table.columns["language"][data.table.split == "test"]
    return {language: float(right[languages == language].mean()) for language in sorted(set(languages))}


def lines(frozen: Sequence[Scores], aligned: Sequence[Scores]) -> list[str]:
    """The table: means over languages, then each language."""
    several = {"**mean**": tuple(frozen[0]), f"**{', '.join(TAUGHT)}**": TAUGHT}
    rows = ["| language | English alone | aligned | difference | lowest | highest |", "|---|---|---|---|---|---|"]
    for title, languages in (several | {language: (language,) for language in frozen[0]}).items():
        before, after = (
            np.array([np.mean([split[language] for language in languages]) for split in found])
            for found in (frozen, aligned)
        )
        apart = after - before
        rows.append(
            f"| {title} | {before.mean():.4f} | {after.mean():.4f} | {apart.mean():+.4f} | {apart.min():+.4f} "
            f"| {apart.max():+.4f} |"
        )
    return rows


if __name__ == "__main__":
    main()
