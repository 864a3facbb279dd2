"""Compare one model with heads by language to one model per language.

    python benchmarks/languages.py [--seeds=1] [--language_order=de,en,...] [--most=N]
        [any flag of tfx_finetune.train]

The categories of Tux Paint's stamps by their names; each object is in one split in all languages. Writes a table into
benchmarks/RESULTS.md of test accuracy and file sizes. `--heads` is the head of a model of one language, and of the one
model with `heads_by='language'`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from results import get_argv_without_seeds, get_flag, record
from stamp_names import make_rows, write_csv

from tfx_finetune.core.spec import Spec, parse_spec

LANGUAGES = "ar,de,en,es,fr,it,ja,ko,nl,pl,pt,ru,tr,zh_TW"
DEFAULT_FLAGS = ("--backbone=use_multilingual(size=32)", "--finetune.epochs=0", "--exports=keras_file()")
_BENCHMARK_FLAGS = ("--seeds", "--language_order", "--most", "--heads")


def main() -> None:
    """Run the benchmark."""
    flags = [flag for flag in sys.argv[1:] if flag.partition("=")[0] not in _BENCHMARK_FLAGS]
    languages = (get_flag("--language_order") or LANGUAGES).split(",")
    scores_by_language: dict[str, list[tuple[float, float, float]]] = {}
    size_ratios: list[float] = []
    seeds, head = int(get_flag("--seeds") or 1), parse_spec(get_flag("--heads") or "classify()")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows = make_rows(languages, seed, int(get_flag("--most") or 0))
            scores, ratio = measure(Path(folder), rows, [*DEFAULT_FLAGS, *flags, f"--seed={seed}"], head)
        size_ratios.append(ratio)
        for language, accuracies in scores.items():
            scores_by_language.setdefault(language, []).append(accuracies)
    means = {language: np.mean(accuracies, axis=0) for language, accuracies in scores_by_language.items()}
    title = (
        f"Heads by language and one model per language: {len(means)} languages, {seeds} seed{'s' * (seeds > 1)}, {head}"
    )
    text = f"{format_table(means)}\n\nThe one model is {np.mean(size_ratios):.3f} times the size of one of the others."
    record(" ".join(["languages", *get_argv_without_seeds()[1:]]), title, text)


def measure(
    folder: Path, rows: list[dict[str, str]], flags: list[str], head: Spec
) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Return the accuracy (language head, shared head, one model per language) by language, and the size ratio.

    The size ratio is the size of the one model relative to the mean size of the others.
    """
    per_language = [*flags, f"--heads={head}", "--heads_by=language"]
    joint_scores, joint_size = train_model(write_csv(folder / "all.csv", rows), folder / "all", per_language)
    scores, sizes = {}, []
    for language in sorted({row["language"] for row in rows}):
        data = write_csv(folder / f"{language}.csv", [row for row in rows if row["language"] == language])
        single_scores, size = train_model(data, folder / language, [*flags, f"--heads={head}"])
        head_accuracy, shared_accuracy = (
            joint_scores[f"{language}/accuracy"],
            joint_scores[f"shared/accuracy[{language}]"],
        )
        scores[language] = (head_accuracy, shared_accuracy, single_scores["label/accuracy"])
        sizes.append(size)
    return scores, joint_size / float(np.mean(sizes))


def train_model(data: Path, workdir: Path, flags: list[str]) -> tuple[dict[str, float], int]:
    """Train a model in its own process, and return its test scores and the size of its Keras file."""
    command = [sys.executable, "-m", "tfx_finetune.train", f"--data={data}", *flags, f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    bundle = workdir / "bundle"
    return json.loads((bundle / "scores.json").read_text())["test"], (bundle / "model.keras").stat().st_size


def format_table(means: dict[str, np.ndarray]) -> str:
    """Return a Markdown table: one row per language, then mean and worst."""
    lines = ["| language | language head | shared head | one model per language |", "|---|---|---|---|"]
    accuracies = np.stack(list(means.values()))
    table_rows = means | {"**mean**": accuracies.mean(0), "**worst**": accuracies.min(0)}
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in table_rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
