"""Measure a model of several towers with missing inputs, over several seeds.

    python benchmarks/subsets.py --config=configs/tux_multimodal.cfg [--seeds=3] [any flag of tfx_finetune.train]

Each seed has its own split, initialization and order. Writes a table into benchmarks/RESULTS.md: for every subset of
the inputs the score of each run, mean and standard deviation, and the number of test samples with any of these inputs
(of the first seed); then the same for every exported file with all inputs.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import get_flag, record

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.deploy.verify import compute_mean_score


def main() -> None:
    """Run the benchmark."""
    benchmark_flags = {name: get_flag(name) for name in ("--config", "--seeds")}
    flags = [flag for flag in sys.argv[1:] if flag.partition("=")[0] not in benchmark_flags]
    if not benchmark_flags["--config"]:
        sys.exit("Pass --config=FILE, a flag file of several towers.")
    config, seeds = Path(benchmark_flags["--config"]), range(int(benchmark_flags["--seeds"] or 3))
    start = time.time()
    runs = [measure([f"--flagfile={config}", *flags, f"--seed={seed}"]) for seed in seeds]
    lines = format_table("inputs", [subsets for subsets, _ in runs]) + [
        "",
        *format_table("file", [files for _, files in runs]),
    ]
    lines += ["", f"{(time.time() - start) / 60 / len(seeds):.1f} minutes per run."]
    title = " ".join([f"Subsets of the towers, {len(seeds)} seeds: {config.name}", *flags])
    record(" ".join(["subsets", config.stem, *flags]), title, "\n".join(lines))


def measure(flags: list[str]) -> tuple[dict[str, tuple[float, int]], dict[str, tuple[float, int]]]:
    """Return (score, number of test samples) by subset of the inputs and by exported file, for one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={folder}/run"]
        # Exit status 3: a file failed verification, which its score shows.
        if (status := subprocess.run(command).returncode) not in (0, 3):
            sys.exit(status)
        bundle = Bundle.open(f"{folder}/run/bundle")
        scores = json.loads((bundle.path / "scores.json").read_text())
        parts = scores["ablations"]
        subset_scores = {
            " + ".join(part["towers"]): (compute_mean_score(bundle.tasks, part), part["samples"]) for part in parts
        }
        samples = max(part["samples"] for part in parts)
        return subset_scores, {
            format: (compute_mean_score(bundle.tasks, scores[format]), samples) for format in bundle.formats
        }


def format_table(heading: str, runs: list[dict[str, tuple[float, int]]]) -> list[str]:
    """Return the lines of a Markdown table with one row per name."""
    lines = [f"| {heading} | {' | '.join(f'seed {seed}' for seed in range(len(runs)))} | mean ± std | samples |"]
    lines.append("|---|" + "---|" * (len(runs) + 2))
    for name, (_, samples) in runs[0].items():
        scores = [run[name][0] for run in runs]
        columns = " | ".join(f"{value:.3f}" for value in scores)
        lines.append(f"| {name} | {columns} | {np.mean(scores):.3f} ± {np.std(scores):.3f} | {samples} |")
    return lines


if __name__ == "__main__":
    main()
