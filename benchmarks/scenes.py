"""Shared code of detection.py and segmentation.py: train variants of one config and compare them."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from results import record, said

from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run

CONFIGS = Path(__file__).parent.parent / "configs"


def compare(
    name: str,
    config: str,
    title: str,
    scores: Mapping[str, str],
    own: str,
    points: str,
    more: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Train each variant with every seed, and write the table of means over seeds.

    Args:
        name: Name of the benchmark.
        config: File in configs/.
        title: Heading of the section.
        scores: Keys of scores.json by column.
        own: Key of the score whose drop in the int8 file is reported.
        points: Unit of the drop.
        more: Flags of additional rows, which are trained only if `--rows` names them.
    """
    seeds = int(said("--seeds") or 3)
    own_flags = ("--seeds=", "--scratch_epochs=", "--rows=")
    flags = [flag for flag in sys.argv[1:] if not flag.startswith(own_flags)]
    path = f"--flagfile={CONFIGS / config}"
    run, _ = flagfile.parse_flags([sys.argv[0], path, *flags], Run())
    usual = _variants(run)
    wanted = [row for row in said("--rows").split(",") if row] or list(usual)
    rows = {row: variant for row, variant in (usual | dict(more)).items() if row in wanted}
    lines = [
        f"| training | {' | '.join(scores)} | int8 drop, {points} | minutes |",
        f"|---|{'---|' * (len(scores) + 2)}",
    ]
    for row, variant in rows.items():
        found = [trained([path, *flags, *variant, f"--seed={seed}"]) for seed in range(seeds)]
        each = [[one["test"][key] for key in scores.values()] for one in found]
        lost = [100 * (one["test"][own] - one["tflite_int8"][own]) for one in found]
        minutes = [one["seconds"] / 60 for one in found]
        means = " | ".join(f"{value:.3f}" for value in np.mean(each, 0))
        lines.append(f"| {row} | {means} | {np.mean(lost):+.1f} | {np.median(minutes):.1f} |")
        print(lines[-1], file=sys.stderr)
    chosen = [f"--rows={said('--rows')}"] if said("--rows") else []
    record(" ".join([name, *flags, *chosen]), f"{title}, {seeds} seed{'s' * (seeds > 1)}", "\n".join(lines))


def _variants(run: Run) -> dict[str, Sequence[str]]:
    """Return the flags of each row, in addition to those of the config."""
    scratch = re.sub(r"\((.*)\)", r"(\1, weights='none')", run.backbone).replace("(, ", "(")
    epochs = said("--scratch_epochs") or str(run.frozen.epochs)
    rate = f"--finetune.learning_rate={run.frozen.learning_rate}"
    tuned = (
        "--finetune.epochs=5",
        "--finetune.unfreeze=6",
        f"--finetune.augmented_views={run.frozen.augmented_views}",
        "--finetune.wise_ft=false",
    )
    other = {"backbone frozen": ("--finetune.epochs=0",)} if run.finetune.epochs else {"then its top tuned": tuned}
    alone = (
        f"--backbone={scratch}",
        "--frozen.epochs=0",
        f"--finetune.epochs={epochs}",
        rate,
        "--finetune.unfreeze=all",
    )
    return {"as it is": (), **other, "from scratch": alone}


def trained(flags: Sequence[str]) -> dict:
    """Return scores.json of a run, and the seconds of its training with those of the frozen features."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={folder}", "--nocache.enabled"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode not in (0, 3):
            sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        scores = json.loads((Path(folder) / "bundle" / "scores.json").read_text())
        histories = [json.loads(path.read_text()) for path in Path(folder).glob("checkpoints/*/history.json")]
        bars = re.findall(r"(?:train|val)\S*(?:, \d+ views)?\s+([\d.]+) s", done.stderr)
        return scores | {"seconds": sum(one["seconds"] for one in histories) + sum(map(float, bars))}
