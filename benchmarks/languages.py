"""Compare one model with heads by language to one model per language.

    python benchmarks/languages.py [--seeds=1] [--language_order=de,en,...] [--most=N]
        [any flag of tfx_finetune.train]

The categories of Tux Paint's stamps by their names; each thing is in one split in all languages. Writes a table into
benchmarks/RESULTS.md of test accuracy and file sizes. `--heads` is the head of a model of one language, and of the one
model with `heads_by='language'`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from results import record, said, unseeded
from stamp_names import rows, write

from tfx_finetune.core.spec import Spec, parse_spec

LANGUAGES = "ar,de,en,es,fr,it,ja,ko,nl,pl,pt,ru,tr,zh_TW"
USUAL = ("--backbone=use_multilingual(size=32)", "--finetune.epochs=0", "--exports=keras_file()")
_OWN = ("--seeds", "--language_order", "--most", "--heads")


def main() -> None:
    """Run the benchmark."""
    flags = [flag for flag in sys.argv[1:] if flag.partition("=")[0] not in _OWN]
    languages = (said("--language_order") or LANGUAGES).split(",")
    found: dict[str, list[tuple[float, float, float]]] = {}
    sizes: list[float] = []
    seeds, head = int(said("--seeds") or 1), parse_spec(said("--heads") or "classify()")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            names = rows(languages, seed, int(said("--most") or 0))
            scores, ratio = measured(Path(folder), names, [*USUAL, *flags, f"--seed={seed}"], head)
        sizes.append(ratio)
        for language, each in scores.items():
            found.setdefault(language, []).append(each)
    means = {language: np.mean(each, axis=0) for language, each in found.items()}
    title = (
        f"Heads by language and one model per language: {len(means)} languages, {seeds} seed{'s' * (seeds > 1)}, {head}"
    )
    text = f"{table(means)}\n\nThe one model is {np.mean(sizes):.3f} times the size of one of the others."
    record(" ".join(["languages", *unseeded()[1:]]), title, text)


def measured(
    folder: Path, names: list[dict[str, str]], flags: list[str], head: Spec
) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Return the accuracy (language head, shared head, one model per language) by language, and the size ratio.

    The size ratio is the size of the one model relative to the mean size of the others.
    """
    per_language = [*flags, f"--heads={head}", "--heads_by=language"]
    joint, whole = trained(write(folder / "all.csv", names), folder / "all", per_language)
    scores, sizes = {}, []
    for language in sorted({row["language"] for row in names}):
        data = write(folder / f"{language}.csv", [row for row in names if row["language"] == language])
        alone, size = trained(data, folder / language, [*flags, f"--heads={head}"])
        own, shared = joint[f"{language}/accuracy"], joint[f"shared/accuracy[{language}]"]
        scores[language] = (own, shared, alone["label/accuracy"])
        sizes.append(size)
    return scores, whole / float(np.mean(sizes))


def trained(data: Path, workdir: Path, flags: list[str]) -> tuple[dict[str, float], int]:
    """Train a model in its own process, and return its test scores and the size of its Keras file."""
    command = [sys.executable, "-m", "tfx_finetune.train", f"--data={data}", *flags, f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    bundle = workdir / "bundle"
    return json.loads((bundle / "scores.json").read_text())["test"], (bundle / "model.keras").stat().st_size


def table(means: dict[str, np.ndarray]) -> str:
    """Return a Markdown table: one row per language, then mean and worst."""
    lines = ["| language | language head | shared head | one model per language |", "|---|---|---|---|"]
    every = np.stack(list(means.values()))
    named = means | {"**mean**": every.mean(0), "**worst**": every.min(0)}
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in named.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
