"""Compare fine-tuning with logistic regression on the same frozen features: Tux Paint's stamps, five splits.

    python benchmarks/splits.py [--splits=5] [any flag of tfx_finetune.train]

Writes a table into benchmarks/RESULTS.md with one row per split: test accuracy of logistic regression on frozen
features (scikit-learn's defaults; trained on the training samples, and on training and validation samples), of the
network after phases `frozen` and `finetune`, and their means.
"""

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from results import record
from sklearn.linear_model import LogisticRegression

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.deploy.servable import build_servable
from tfx_finetune.evaluation.scores import predict_batches
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import split_model
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training import feature_cache
from tfx_finetune.training.engine import make_inference_fn
from tfx_finetune.training.trainer import fit_phase
from tfx_finetune.types.plan import Plan


def main() -> None:
    """Run the benchmark."""
    split_counts = [int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--splits=")] or [5]
    flags = [flag for flag in sys.argv if not flag.startswith("--splits=")]
    defaults, _ = flagfile.parse_flags(flags, Run(data="tux_stamps()"))
    rows = [measure(dataclasses.replace(defaults, seed=seed)) for seed in range(split_counts[0])]
    names = list(rows[0])
    lines = [f"| split | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {seed} | {' | '.join(f'{row[name]:.3f}' for name in names)} |" for seed, row in enumerate(rows)]
    means = {name: np.mean([row[name] for row in rows]) for name in names}
    lines.append(f"| mean | {' | '.join(f'{means[name]:.4f}' for name in names)} |")
    arguments = " ".join(flags[1:])
    record(f"splits {arguments}".strip(), f"Five splits, {arguments or 'the defaults'}", "\n".join(lines))


def measure(run: Run) -> dict[str, float]:
    """Return the test accuracy by method for one split."""
    folder = Path(tempfile.mkdtemp())
    plan = check(dataclasses.replace(run, workdir=str(folder)))
    keras.backend.clear_session()
    keras.utils.set_random_seed(run.seed)
    towers = build_towers(plan.architecture)
    data = prepare_data(plan, {tower: backbone.pretrained_cfg for tower, backbone in towers.items()})
    network = build_model(plan.architecture, towers, data.tasks)
    accuracies = measure_regression(plan, data, network, folder)
    test = feature_cache.get_or_compute(data, "test", 1, {}, {"image": "prepared"}, folder)
    for name, phase in plan.phases.items():
        fit_phase(network, name, phase, data, training_context(plan))
        model = build_servable(network, data.modalities, {}, {}).model
        targets, outputs = predict_batches(make_predict_fn(model), test.batches(32))
        accuracies[name] = float(data.tasks["label"].per_sample_score(targets["label"], outputs["label/scores"]).mean())
    shutil.rmtree(folder)
    return accuracies


def measure_regression(plan: Plan, data: Data, network: Network, folder: Path) -> dict[str, float]:
    """Return the test accuracy of logistic regression on frozen features."""
    trunks, _ = split_model(network, "0")
    feature_fns, cache_keys = {"image": make_inference_fn(trunks["image"], len(data.table.split))}, {"image": "frozen"}
    stores = {
        split: feature_cache.get_or_compute(data, split, 1, feature_fns, cache_keys, folder)
        for split in ("train", "val", "test")
    }
    x = {split: np.asarray(store.inputs[0]["image"]) for split, store in stores.items()}
    y = {split: store.targets["label"].argmax(-1) for split, store in stores.items()}

    def accuracy(*train_splits: str) -> float:
        model = LogisticRegression(max_iter=5000)
        model.fit(
            np.concatenate([x[split] for split in train_splits]), np.concatenate([y[split] for split in train_splits])
        )
        return float(model.score(x["test"], y["test"]))

    return {"regression": accuracy("train"), "regression with val": accuracy("train", "val")}


if __name__ == "__main__":
    main()
