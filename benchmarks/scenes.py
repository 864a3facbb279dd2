"""Shared code of detection.py and segmentation.py: train variants of one config and compare them."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from results import get_flag, record

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run

CONFIGS = Path(__file__).parent.parent / "configs"


class SceneBenchmark(NamedTuple):
    """Benchmark of variants of one config.

    Attributes:
        name: Name of the benchmark.
        config: File in configs/.
        title: Heading of the section.
        score_keys: Keys of scores.json by column.
        drop_key: Key of the score whose drop in the int8 file is reported.
        drop_unit: Unit of the drop.
        extra_rows: Flags of additional rows, which are trained only if `--rows` names them.
    """

    name: str
    config: str
    title: str
    score_keys: Mapping[str, str]
    drop_key: str
    drop_unit: str
    extra_rows: Mapping[str, Sequence[str]] = MappingProxyType({})


def compare(benchmark: SceneBenchmark) -> None:
    """Train each variant with every seed, and write the table of means over seeds."""
    seeds = int(get_flag("--seeds") or 3)
    benchmark_flags = ("--seeds=", "--scratch_epochs=", "--rows=")
    flags = [flag for flag in sys.argv[1:] if not flag.startswith(benchmark_flags)]
    path = f"--flagfile={CONFIGS / benchmark.config}"
    run, _ = flagfile.parse_flags([sys.argv[0], path, *flags], Run())
    standard_rows = _variants(run)
    row_names = [row for row in get_flag("--rows").split(",") if row] or list(standard_rows)
    rows = {row: variant for row, variant in (standard_rows | dict(benchmark.extra_rows)).items() if row in row_names}
    lines = [
        f"| training | {' | '.join(benchmark.score_keys)} | int8 drop, {benchmark.drop_unit} | minutes |",
        f"|---|{'---|' * (len(benchmark.score_keys) + 2)}",
    ]
    for row, variant in rows.items():
        runs = [train_run([path, *flags, *variant, f"--seed={seed}"]) for seed in range(seeds)]
        values = [[scores["test"][key] for key in benchmark.score_keys.values()] for scores in runs]
        drops = [
            100 * (scores["test"][benchmark.drop_key] - scores["tflite_int8"][benchmark.drop_key]) for scores in runs
        ]
        minutes = [scores["seconds"] / 60 for scores in runs]
        means = " | ".join(f"{value:.3f}" for value in np.mean(values, 0))
        lines.append(f"| {row} | {means} | {np.mean(drops):+.1f} | {np.median(minutes):.1f} |")
        print(lines[-1], file=sys.stderr)
    rows_flag = [f"--rows={get_flag('--rows')}"] if get_flag("--rows") else []
    record(
        " ".join([benchmark.name, *flags, *rows_flag]),
        f"{benchmark.title}, {seeds} seed{'s' * (seeds > 1)}",
        "\n".join(lines),
    )


def _variants(run: Run) -> dict[str, Sequence[str]]:
    """Return the flags of each row, in addition to those of the config."""
    scratch = re.sub(r"\((.*)\)", r"(\1, weights='none')", run.backbone).replace("(, ", "(")
    epochs = get_flag("--scratch_epochs") or str(run.frozen.epochs)
    learning_rate_flag = f"--finetune.learning_rate={run.frozen.learning_rate}"
    finetune_flags = (
        "--finetune.epochs=5",
        "--finetune.unfreeze=6",
        f"--finetune.augmented_views={run.frozen.augmented_views}",
        "--finetune.wise_ft=false",
    )
    backbone_rows = (
        {"backbone frozen": ("--finetune.epochs=0",)} if run.finetune.epochs else {"then its top tuned": finetune_flags}
    )
    scratch_flags = (
        f"--backbone={scratch}",
        "--frozen.epochs=0",
        f"--finetune.epochs={epochs}",
        learning_rate_flag,
        "--finetune.unfreeze=all",
    )
    return {"as it is": (), **backbone_rows, "from scratch": scratch_flags}


def train_run(flags: Sequence[str]) -> dict:
    """Return scores.json of a run, and the seconds of its training with those of the frozen features."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={folder}", "--nocache.enabled"]
        process = subprocess.run(command, check=False, capture_output=True, text=True)
        if process.returncode not in (0, 3):
            sys.exit(f"{' '.join(command)}\n{process.stderr[-3000:]}")
        scores = json.loads((Path(folder) / "bundle" / "scores.json").read_text())
        histories = [json.loads(path.read_text()) for path in Path(folder).glob("checkpoints/*/history.json")]
        bars = re.findall(r"(?:train|val)\S*(?:, \d+ views)?\s+([\d.]+) s", process.stderr)
        return scores | {"seconds": sum(history["seconds"] for history in histories) + sum(map(float, bars))}
