"""Compare training strategies for several languages: joint, sequential, and separate with merging.

    python benchmarks/merging.py [--seeds=1] [--language_order=de,en,...] [--most=N]
        [any flag of tfx_finetune.train]

The categories of Tux Paint's stamps by their names, one head for all languages, the top of the backbone fine-tuned.
Writes a table into benchmarks/RESULTS.md: mean test accuracy over languages, accuracy of the worst language, and
backward transfer on validation samples, for each `--strategy`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from results import get_argv_without_seeds, get_flag, record
from stamp_names import make_rows, write_csv

LANGUAGES = "de,en,es,fr,it,nl"
DEFAULT_FLAGS = (
    "--backbone=use_multilingual(size=32)",
    "--frozen.epochs=3",
    "--finetune.unfreeze=1",
    "--finetune.epochs=5",
    "--exports=keras_file()",
)
# All merges share a work folder, so the models are trained once.
STRATEGIES = {
    "joint": ("joint", []),
    "sequential": ("sequential", ["--strategy=sequential"]),
    "sequential, rehearsal of 0.1": ("rehearsal", ["--strategy=sequential", "--rehearsal=0.1"]),
    "sequential, L2-SP of 0.1": (
        "l2sp",
        ["--strategy=sequential", "--finetune.l2_sp", "--finetune.weight_decay=0.1"],
    ),
    "separate, average": ("merge", ["--strategy=per_language_then_merge"]),
    "separate, task arithmetic": ("merge", ["--strategy=per_language_then_merge", "--merge=task_arithmetic()"]),
    "separate, TIES": ("merge", ["--strategy=per_language_then_merge", "--merge=ties()"]),
}
_BENCHMARK_FLAGS = ("--seeds", "--language_order", "--most")


def main() -> None:
    """Run the benchmark."""
    flags = [flag for flag in sys.argv[1:] if flag.partition("=")[0] not in _BENCHMARK_FLAGS]
    languages = (get_flag("--language_order") or LANGUAGES).split(",")
    scores: dict[str, list[tuple[float, float, float]]] = {}
    seeds = int(get_flag("--seeds") or 1)
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            data = write_csv(Path(folder) / "names.csv", make_rows(languages, seed, int(get_flag("--most") or 0)))
            for name, (run_name, options) in STRATEGIES.items():
                run_flags = [
                    f"--data={data}",
                    *DEFAULT_FLAGS,
                    *flags,
                    *options,
                    f"--seed={seed}",
                    f"--workdir={folder}/{run_name}",
                ]
                scores.setdefault(name, []).append(measure(run_flags, Path(folder) / run_name, languages))
    title = f"Strategies for {len(languages)} languages, {seeds} seed{'s' if seeds > 1 else ''}"
    record(" ".join(["merging", *get_argv_without_seeds()[1:]]), title, format_table(scores))


def measure(flags: list[str], workdir: Path, languages: list[str]) -> tuple[float, float, float]:
    """Return mean and smallest test accuracy over languages, and the backward transfer or nan."""
    subprocess.run([sys.executable, "-m", "tfx_finetune.train", *flags], check=True)
    scores = json.loads((workdir / "bundle" / "scores.json").read_text())
    accuracies = [scores["test"][f"label/accuracy[{language}]"] for language in languages]
    return float(np.mean(accuracies)), min(accuracies), scores.get("continual", {}).get("bwt", float("nan"))


def format_table(scores: dict[str, list[tuple[float, float, float]]]) -> str:
    """Return a Markdown table with one row per strategy, means over seeds."""
    lines = ["| strategy | mean | worst language | backward transfer |", "|---|---|---|---|"]
    for name, seed_scores in scores.items():
        mean, worst, backward = np.mean(seed_scores, axis=0)
        lines.append(f"| {name} | {mean:.3f} | {worst:.3f} | {'-' if np.isnan(backward) else f'{backward:+.3f}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
