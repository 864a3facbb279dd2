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
from results import record, said, unseeded

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
    flags = unseeded()[1:]
    config = [] if any(flag.startswith("--flagfile") for flag in flags) else [f"--flagfile={CONFIG}"]
    found: dict[str, list[float]] = {}
    for seed in range(int(said("--seeds") or 3)):
        with tempfile.TemporaryDirectory() as folder:
            for name, accuracy in measured([*config, *flags, f"--seed={seed}"], Path(folder)).items():
                found.setdefault(name, []).append(accuracy)
        title = f"Distillation: {STUDENT} taught by {TEACHER}, {seed + 1} seeds"
        record(" ".join(["distill", *flags]), title, table(found))


def measured(flags: list[str], folder: Path) -> dict[str, float]:
    """Return the test accuracy of a teacher and of the students on the same split."""
    found = {f"teacher, {TEACHER}": trained(flags, folder / "teacher", TEACHER)}
    for position, (name, options) in enumerate(STUDENTS.items()):
        taught = [f"--teacher={folder / 'teacher' / 'bundle'}", *options] if options else []
        found[name] = trained([*flags, *taught], folder / str(position), STUDENT)
    return found


def trained(flags: list[str], workdir: Path, backbone: str) -> float:
    """Train a model in its own process, and return its test score."""
    own = [f"--backbone={backbone}", "--exports=keras_file()", f"--workdir={workdir}"]
    subprocess.run([sys.executable, "-m", "tfx_finetune.train", *flags, *own], check=True)
    return float(json.loads((workdir / "bundle" / "scores.json").read_text())["test"]["label/accuracy"])


def table(found: dict[str, list[float]]) -> str:
    """Return a Markdown table with one row per model: mean, each seed, and the number of seeds above labels only."""
    alone = np.array(found["labels only"])
    lines = ["| model | mean accuracy | each seed | seeds above labels only |", "|---|---|---|---|"]
    for name, values in found.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.3f} | {each} | {int((np.array(values) > alone).sum())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
