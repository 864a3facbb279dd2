"""Compare fusions and training strategies of several towers, and the cost of missing inputs.

    python benchmarks/strategies.py [--seeds=3] [--tables=fusion,strategy,training]
        [any flag of tfx_finetune.train]

Writes tables into benchmarks/RESULTS.md: test accuracy (means over seeds) of one model for every subset of its inputs,
for each fusion and each training strategy, compared with models trained on each subset only, on the same split.
Default: configs/tux_multimodal.cfg.
"""

import concurrent.futures
import dataclasses
import gc
import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from results import get_flag, record

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.core.options import replace_options
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.scores import evaluate
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.report.modality_ablation import run_modality_ablation, run_towers
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.training.phase_data import cache_prepared_split
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Backbone

CONFIG = Path(__file__).parent.parent / "configs" / "tux_multimodal.cfg"
FUSIONS = (
    "concat()",
    "gated()",
    "gated(initial_tower='image')",
    "film()",
    "late()",
    "shared()",
    "shared(contrastive_weight=0.0)",
    "cross_attend()",
)
_TUNED: dict[str, object] = {"finetune.epochs": 3, "finetune.unfreeze": "image=3, audio=2, text=1"}
STRATEGIES: dict[str, dict[str, object]] = {
    "all towers frozen": {"finetune.epochs": 0},
    "frozen, gradient modulation (OGM-GE)": {"finetune.epochs": 0, "frozen.gradient_modulation": 0.5},
    "frozen, no modality dropout": {"finetune.epochs": 0, "modality_dropout": 0.0},
    "top groups together": _TUNED,
    "top groups one tower after another": _TUNED | {"finetune.one_tower_at_a_time": True},
    "together, one learning rate per tower": _TUNED | {"finetune.lr_multipliers": "image=1, audio=0.1"},
    "together, gradients clipped by tower": _TUNED | {"finetune.clip_norm_per_tower": True},
    "together, gradient modulation (OGM-GE)": _TUNED | {"finetune.gradient_modulation": 0.5},
}
Scores = dict[tuple[str, ...], float]


def main() -> None:
    """Run the benchmark."""
    benchmark_flags = {name: get_flag(name) for name in ("--seeds", "--tables")}
    flags = [flag for flag in sys.argv[1:] if flag.partition("=")[0] not in benchmark_flags]
    config = [] if any(flag.startswith("--flagfile") for flag in flags) else [f"--flagfile={CONFIG}"]
    run, _ = flagfile.parse_flags([sys.argv[0], *config, *flags], Run())
    titles = (benchmark_flags["--tables"] or ",".join(TABLES)).split(",")
    results: list[dict[str, dict[str, Scores]]] = []
    # One process per seed, because TensorFlow does not free the gigabytes of thirty models.
    context = multiprocessing.get_context("spawn")
    for seed in range(int(benchmark_flags["--seeds"] or 3)):
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            results.append(pool.submit(measure_seed, dataclasses.replace(run, seed=seed), titles).result())
        for title in titles:
            heading = f"Several towers, by {title}: {run.backbone}, {seed + 1} seeds"
            record(
                " ".join(["strategies", title, *flags]),
                heading,
                format_table(title, [result[title] for result in results]),
            )


def measure_seed(run: Run, titles: Sequence[str]) -> dict[str, dict[str, Scores]]:
    """Return the tables of one seed: the score of every subset for each row."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(run, Path(folder))
        return {title: TABLES[title](benchmark) for title in titles}


class Benchmark:
    """Towers and samples of one seed, on which models are trained one after another.

    Args:
        run: Run whose options are varied.
        folder: Folder of the results of all runs.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder, self.count = run, folder, 0
        plan = check(self._make_run({}))
        self.towers = build_towers(plan.architecture)
        self.start = {
            tower: keras.Model(backbone.inputs, backbone.features.pooled).get_weights()
            for tower, backbone in self.towers.items()
        }
        self.data = prepare_data(plan, {tower: backbone.pretrained_cfg for tower, backbone in self.towers.items()})
        self.test = cache_prepared_split(self.data, "test", plan.workdir)
        # Test features of the frozen towers, computed once.
        self.features: Batch | None = None

    def list_subsets(self) -> list[tuple[str, ...]]:
        """Return all non-empty subsets of the towers."""
        sizes = range(1, len(self.towers) + 1)
        return [subset for size in sizes for subset in itertools.combinations(self.towers, size)]

    def measure_options(self, options: Mapping[str, object]) -> Scores:
        """Train a model with these options, and return its test score for every subset of its inputs."""
        return self._train_and_score(self._make_run(options), self.towers, self.data, self.test)

    def measure_subset(self, towers: Sequence[str]) -> float:
        """Return the test score of a model trained on these towers only."""
        specs = {name: str(spec) for name, spec in check(self._make_run({})).towers.items()}
        options = {"towers": ", ".join(f"{tower}={specs[tower]}" for tower in towers)}
        selected_towers = {tower: self.towers[tower] for tower in towers}
        run, data = self._make_run(options), select_towers(self.data, towers)
        return self._train_and_score(
            run, selected_towers, data, cache_prepared_split(data, "test", check(run).workdir)
        )[tuple(towers)]

    def _make_run(self, options: Mapping[str, object]) -> Run:
        self.count += 1
        return replace_options(dataclasses.replace(self.run, workdir=str(self.folder / str(self.count))), dict(options))

    def _train_and_score(self, run: Run, towers: Mapping[str, Backbone], data: Data, test: FeatureStore) -> Scores:
        plan = check(run)
        modality_dropout = run.modality_dropout if len(towers) > 1 else 0.0
        data = dataclasses.replace(data, sampler=dataclasses.replace(data.sampler, modality_dropout=modality_dropout))
        keras.utils.set_random_seed(run.seed)
        for tower, weights in self.start.items():
            keras.Model(self.towers[tower].inputs, self.towers[tower].features.pooled).set_weights(weights)
        network = build_model(plan.architecture, towers, data.tasks)
        for name, phase in plan.phases.items():
            fit_phase(network, name, phase, data, training_context(plan))
        (score,) = {f"{head}/{task.monitor}" for head, task in data.tasks.items()}
        features = None
        if test is self.test and not run.finetune.epochs and not (network.fusion and network.fusion.needs_tokens):
            features = self.features = self.features or run_towers(network, test)
        scores = {part.towers: part.scores[score] for part in run_modality_ablation(network, test, features)[0]}
        if len(towers) == 1:
            parts = [network.model(inputs, training=False) for inputs, _ in test.batches(64)]
            ((head, task),) = data.tasks.items()
            logits = np.concatenate([np.asarray(part[f"{head}/logits"]) for part in parts])
            outputs = {f"{head}/scores": np.asarray(task.decode({"logits": logits})["scores"])}
            scores = {tuple(towers): evaluate(data.tasks, dict(test.targets), outputs)[score]}
        gc.collect()
        return scores


TABLES: dict[str, Callable[[Benchmark], dict[str, Scores]]] = {
    "fusion": lambda benchmark: {fusion: benchmark.measure_options({"fusion": fusion}) for fusion in FUSIONS},
    "strategy": lambda benchmark: {name: benchmark.measure_options(options) for name, options in STRATEGIES.items()},
    "training": lambda benchmark: {
        "one model, some inputs missing": benchmark.measure_options({}),
        "one model per subset": {towers: benchmark.measure_subset(towers) for towers in benchmark.list_subsets()},
    },
}


def select_towers(data: Data, towers: Sequence[str]) -> Data:
    """Return the samples without the columns of other towers, with the same split."""
    table = data.table
    has_input = np.any([np.asarray(table.digests[tower]) != "" for tower in towers], axis=0)
    return dataclasses.replace(
        data,
        table=dataclasses.replace(table, split=np.where(has_input, table.split, "")),
        modalities={tower: data.modalities[tower] for tower in towers},
        tower_columns={tower: data.tower_columns[tower] for tower in towers},
    )


def format_table(title: str, seeds: Sequence[Mapping[str, Scores]]) -> str:
    """Return a Markdown table with one row per model and one column per subset, means over seeds."""
    subsets = list(next(iter(seeds[0].values())))
    lines = [f"| {title} | {' | '.join(' + '.join(subset) for subset in subsets)} |", "|---|" + "---|" * len(subsets)]
    for row in seeds[0]:
        means = [np.mean([seed[row][subset] for seed in seeds]) for subset in subsets]
        lines.append(f"| {row} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
