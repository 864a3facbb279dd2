"""Measure generalization to another voice from one recording per digit.

    python benchmarks/spoken_digits.py [--seeds=3] [any flag of tfx_finetune.train]

For each language with two voices, in both directions: train on ten recordings of one voice, test on the other. Writes a
table into benchmarks/RESULTS.md: accuracy of the nearest neighbor (cosine) on frozen features, and of the network after
phases `frozen` (with augmented views) and `finetune`; means over seeds, and over all rows.
"""

import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
from results import get_argv_without_seeds, get_flag, record

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.build import build_model, build_towers
from tfx_finetune.run.load_data import prepare_data
from tfx_finetune.run.plan import check
from tfx_finetune.run.setup import training_context
from tfx_finetune.training.trainer import fit_phase

PAIRS = {"es": ("allison_mx", "july"), "fr": ("june", "armelle"), "it": ("menardi", "carlo")}
CONFIG = Path(__file__).parent.parent / "configs" / "spoken_digits.cfg"
Samples = tuple[dict[str, np.ndarray], np.ndarray]


def main() -> None:
    """Run the benchmark."""
    seeds = int(get_flag("--seeds") or 3)
    flags = get_argv_without_seeds()
    defaults, _ = flagfile.parse_flags([flags[0], f"--flagfile={CONFIG}", *flags[1:]], Run())
    directions = [(language, test_voice) for language, pair in PAIRS.items() for test_voice in pair]
    rows = {}
    for language, test_voice in directions:
        accuracies = [measure(defaults, language, test_voice, seed) for seed in range(seeds)]
        train_voice = next(voice for voice in PAIRS[language] if voice != test_voice)
        rows[f"{language}, {train_voice} -> {test_voice}"] = {
            name: np.mean([accuracy[name] for accuracy in accuracies]) for name in accuracies[0]
        }
    names = list(next(iter(rows.values())))
    lines = [f"| voices | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {row} | {' | '.join(f'{value:.2f}' for value in values.values())} |" for row, values in rows.items()]
    means = [np.mean([values[name] for values in rows.values()]) for name in names]
    lines.append(f"| **mean** | {' | '.join(f'**{mean:.3f}**' for mean in means)} |")
    title = f"Spoken digits of another voice: {defaults.backbone}, {seeds} seeds"
    record(" ".join(["spoken_digits", *flags[1:]]), title, "\n".join(lines))


def measure(defaults: Run, language: str, test_voice: str, seed: int) -> dict[str, float]:
    """Return the test accuracy after each step of one run."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"spoken_digits(languages=({language!r},), test={test_voice!r})"
        # Fine-tuning is measured, too, where the configuration leaves it out.
        finetune = dataclasses.replace(defaults.finetune, epochs=defaults.finetune.epochs or 5)
        plan = check(dataclasses.replace(defaults, data=source, seed=seed, workdir=folder, finetune=finetune))
        keras.utils.set_random_seed(seed)
        towers = build_towers(plan.architecture)
        data = prepare_data(plan, {tower: backbone.pretrained_cfg for tower, backbone in towers.items()})
        network = build_model(plan.architecture, towers, data.tasks)
        (backbone,) = towers.values()
        embedding = keras.Model(backbone.inputs, backbone.features.pooled)
        samples = [load_arrays(data, split) for split in ("train", "test")]
        accuracies = {"1-NN, frozen": compute_neighbor_accuracy(embedding, *samples)}
        for name, phase in plan.phases.items():
            fit_phase(network, name, phase, data, training_context(plan))
            accuracies[name] = compute_accuracy(network.model, *samples[1])
        return accuracies


def load_arrays(data: Data, split: str) -> Samples:
    """Return prepared inputs by tower and class indexes of a split."""
    batches = [(inputs, targets) for inputs, targets, _ in data.make_batches(split).as_numpy_iterator()]
    inputs = {name: np.concatenate([batch_inputs[name] for batch_inputs, _ in batches]) for name in batches[0][0]}
    return inputs, np.concatenate([targets["label"] for _, targets in batches]).argmax(-1)


def compute_neighbor_accuracy(embedding: keras.Model, train: Samples, test: Samples) -> float:
    """Return the accuracy of the nearest neighbor by cosine similarity, with features centered on the training mean."""
    features = [embedding.predict(next(iter(inputs.values())), verbose=0) for inputs, _ in (train, test)]
    train_features, test_features = (values - features[0].mean(axis=0) for values in features)
    cosine = (
        test_features
        @ train_features.T
        / np.outer(np.linalg.norm(test_features, axis=1), np.linalg.norm(train_features, axis=1))
    )
    return float((train[1][cosine.argmax(axis=1)] == test[1]).mean())


def compute_accuracy(model: keras.Model, inputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the fraction of samples whose class has the largest logit."""
    return float((model.predict(inputs, verbose=0)["label/logits"].argmax(axis=-1) == labels).mean())


if __name__ == "__main__":
    main()
