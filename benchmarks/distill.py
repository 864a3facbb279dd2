"""Measure distillation: a small student with and without a larger teacher.

    python benchmarks/distill.py [--seeds=3] [any flag of tfx_finetune.train]

Each seed trains a teacher, then students with a smaller input on the same split: without a teacher, and with it for
several weights and temperatures. Writes a table into benchmarks/RESULTS.md. Default data: Tux Paint's stamps.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from results import get_argv_without_seeds, get_flag, record

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.cfg"
TEACHER = "efficientnet_lite0()"
STUDENT = "efficientnet_lite0(size=96)"
STUDENTS = {
    "labels only": [],
    "alpha = 0.5, T = 1": ["--distill.alpha=0.5", "--distill.temperature=1"],
    "alpha = 0.5, T = 2": ["--distill.alpha=0.5", "--distill.temperature=2"],
    "alpha = 0.9, T = 2": ["--distill.alpha=0.9", "--distill.temperature=2"],
    "alpha = 0.9, T = 4": ["--distill.alpha=0.9", "--distill.temperature=4"],
    "teacher only, T = 2": ["--distill.alpha=1", "--distill.temperature=2"],
}


def main() -> None:
    """Run the benchmark."""
    flags = get_argv_without_seeds()[1:]
    config = [] if any(flag.startswith("--flagfile") for flag in flags) else [f"--flagfile={CONFIG}"]
    accuracies: dict[str, list[float]] = {}
    for seed in range(int(get_flag("--seeds") or 3)):
        with tempfile.TemporaryDirectory() as folder:
            for name, accuracy in measure_accuracies([*config, *flags, f"--seed={seed}"], Path(folder)).items():
                accuracies.setdefault(name, []).append(accuracy)
        title = f"Distillation: {STUDENT} taught by {TEACHER}, {seed + 1} seeds"
        record(" ".join(["distill", *flags]), title, format_table(accuracies))


def measure_accuracies(flags: list[str], folder: Path) -> dict[str, float]:
    """Return the test accuracy of a teacher and of the students on the same split."""
    accuracies = {f"teacher, {TEACHER}": train_model(flags, folder / "teacher", TEACHER)}
    for index, (name, options) in enumerate(STUDENTS.items()):
        distill_flags = [f"--teacher={folder / 'teacher' / 'bundle'}", *options] if options else []
        accuracies[name] = train_model([*flags, *distill_flags], folder / str(index), STUDENT)
    return accuracies


def train_model(flags: list[str], workdir: Path, backbone: str) -> float:
    """Train a model in its own process, and return its test score."""
    model_flags = [f"--backbone={backbone}", "--exports=keras_file()", f"--workdir={workdir}"]
    subprocess.run([sys.executable, "-m", "tfx_finetune.train", *flags, *model_flags], check=True)
    return float(json.loads((workdir / "bundle" / "scores.json").read_text())["test"]["label/accuracy"])


def format_table(accuracies: dict[str, list[float]]) -> str:
    """Return a Markdown table with one row per model: mean, each seed, and the number of seeds above labels only."""
    baseline = np.array(accuracies["labels only"])
    lines = ["| model | mean accuracy | each seed | seeds above labels only |", "|---|---|---|---|"]
    for name, values in accuracies.items():
        seed_values = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.3f} | {seed_values} | {int((np.array(values) > baseline).sum())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
