"""Measure generalization between sources of digits, in and out of the training data.

    python benchmarks/digits_sources.py [--seeds=1] [any flag of tfx_finetune.train]

Trains the network of configs/digits_sources.cfg on all sources, and once without each, with every method of `ROWS`.
Writes a table into benchmarks/RESULTS.md with one row per method: mean test accuracy on each source, and on each source
that was left out of training. For a source without splits, the latter is on all samples.
"""

import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
from results import get_argv_without_seeds, get_flag, record

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.labeled import load_labeled_data
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sources.infer_source import parse_sources
from tfx_finetune.evaluation.slices import make_slice_masks
from tfx_finetune.models.network import Network
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import set_up
from tfx_finetune.training.phase_data import cache_prepared_split
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.components import SOURCES
from tfx_finetune.types.plan import Plan

CONFIG = Path(__file__).parent.parent / "configs" / "digits_sources.cfg"
ROWS: dict[str, tuple[str, ...]] = {
    "no auxiliary loss": (),
    "DANN": ("--auxiliary_losses=dann(weight=0.1)",),
    "CORAL": ("--auxiliary_losses=coral(weight=100.0)",),
}
"""Flags of each method, in addition to the configuration."""


def main() -> None:
    """Run the benchmark."""
    seeds = int(get_flag("--seeds") or 1)
    flags = get_argv_without_seeds()
    lines: list[str] = []
    for row, method_flags in ROWS.items():
        run, _ = flagfile.parse_flags([flags[0], f"--flagfile={CONFIG}", *method_flags, *flags[1:]], Run())
        accuracies = [measure(dataclasses.replace(run, seed=seed)) for seed in range(seeds)]
        lines = lines or [f"| method | {' | '.join(accuracies[0])} |", f"|---|{'---|' * len(accuracies[0])}"]
        means = [np.mean([accuracy[name] for accuracy in accuracies]) for name in accuracies[0]]
        lines.append(f"| {row} | {' | '.join(f'{mean:.4f}' for mean in means)} |")
        # Rows take long, so the table is written after each.
        title = (
            f"Digits of several sources: {run.backbone}, {run.finetune.epochs} epochs, {seeds} seed{'s' * (seeds > 1)}"
        )
        record(" ".join(["digits_sources", *flags[1:]]), title, "\n".join(lines))


def measure(run: Run) -> dict[str, float]:
    """Return the test accuracy on each source, and on each source that was left out."""
    sources = parse_sources(run.data)
    with tempfile.TemporaryDirectory() as folder:
        data, network, plan = train_network(run, folder)
        is_correct = compute_correct_mask(network, data, plan)
        accuracies = {
            name: float(is_correct[mask].mean()) for name, mask in make_slice_masks(data.table, "test").items()
        }
    for held_out, spec in sources.items():
        other_sources = ", ".join(f"{name}={other}" for name, other in sources.items() if name != held_out)
        with tempfile.TemporaryDirectory() as folder:
            data, network, plan = train_network(dataclasses.replace(run, data=other_sources), folder)
            part = "test" if "test" in SOURCES.build(spec).sizes else ""
            test_data = load_labeled_data(str(spec), data.modalities, data.tasks, part, 0.0)
            accuracies[f"{held_out}, left out"] = float(compute_correct_mask(network, test_data, plan).mean())
        print(accuracies, flush=True)
    return accuracies


def train_network(run: Run, folder: str) -> tuple[Data, Network, Plan]:
    """Train a run, and return its network and data."""
    keras.backend.clear_session()
    plan = check(dataclasses.replace(run, workdir=folder))
    data, network, context = set_up(plan)
    for name, phase in plan.phases.items():
        fit_phase(network, name, phase, data, context)
    return data, network, plan


def compute_correct_mask(network: Network, data: Data, plan: Plan) -> np.ndarray:
    """Return a mask (n,) of the correctly classified test samples."""
    test = cache_prepared_split(data, "test", plan.workdir)
    outputs = network.model.predict({name: np.asarray(x) for name, x in test.inputs[0].items()}, verbose=0)
    (head,) = data.tasks
    return outputs[f"{head}/logits"].argmax(-1) == np.asarray(test.targets[head]).argmax(-1)


if __name__ == "__main__":
    main()
