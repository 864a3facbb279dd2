"""Distillation: what does a small model gain from the answers of a larger one?

    python benchmarks/distill.py [--seeds=3] [any flag of tfx_finetune.train]

For each seed a teacher is trained, then students of a smaller input on the same split: without a teacher, and with it
for several weights and temperatures. Writes a table of mean test accuracy into benchmarks/RESULTS.md. Without
--flagfile, on Tux Paint's stamps.
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
    "labels alone": [],
    "w = 0.5, T = 1": ["--distill.alpha=0.5", "--distill.temperature=1"],
    "w = 0.5, T = 2": ["--distill.alpha=0.5", "--distill.temperature=2"],
    "w = 0.9, T = 2": ["--distill.alpha=0.9", "--distill.temperature=2"],
    "w = 0.9, T = 4": ["--distill.alpha=0.9", "--distill.temperature=4"],
    "answers alone, T = 2": ["--distill.alpha=1", "--distill.temperature=2"],
}


def main() -> None:
    """Runs the benchmark."""
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
    """Test accuracy of a teacher and of the students on the same split."""
    found = {f"the teacher, {TEACHER}": trained(flags, folder / "teacher", TEACHER)}
    for position, (name, options) in enumerate(STUDENTS.items()):
        taught = [f"--teacher={folder / 'teacher' / 'bundle'}", *options] if options else []
        found[name] = trained([*flags, *taught], folder / str(position), STUDENT)
    return found


def trained(flags: list[str], workdir: Path, backbone: str) -> float:
    """Trains a model in a process of its own; its score on the test split."""
    own = [f"--backbone={backbone}", "--exports=keras_file()", f"--workdir={workdir}"]
    subprocess.run([sys.executable, "-m", "tfx_finetune.train", *flags, *own], check=True)
    return float(json.loads((workdir / "bundle" / "scores.json").read_text())["test"]["label/accuracy"])


def table(found: dict[str, list[float]]) -> str:
    """Markdown: a row a model; mean, each seed, and how many seeds are above what labels alone give."""
    alone = np.array(found["labels alone"])
    lines = ["| model | mean accuracy | each seed | seeds above labels alone |", "|---|---|---|---|"]
    for name, values in found.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.3f} | {each} | {int((np.array(values) > alone).sum())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
