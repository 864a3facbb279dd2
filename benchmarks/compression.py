"""Compare chains of compressions: score, size and zipped size of every file.

    python benchmarks/compression.py [--seeds=0,1,2] [--chains="; qat(); prune(), qat(); ..."]
        [any flag of tfx_finetune.train]

Default: Tux Paint's stamps and EfficientNet-Lite0. Each seed trains once, then compresses the same network with each
chain; a chain is a value of --compress, and the empty chain is post-training quantization only. Scores are differences
to the float file without compression in points, per seed and mean; sizes are ratios to that file. Rows are kept in
benchmarks/compression.json with those of earlier calls and written to benchmarks/RESULTS.md; without seeds (--seeds=)
they are only written again. Latency is not shown, because runtimes do not exploit zeros.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from results import record

from tfx_finetune.core import files, flagfile
from tfx_finetune.core.config import Run

RUNS = Path(__file__).with_suffix(".json")
DEFAULT_FLAGS = ("--data=tux_stamps()", "--backbone=efficientnet_lite0()")
CHAINS = "; qat(); prune(), qat(); cluster(); prune(), cluster(), qat()"
FORMATS = ("tflite", "tflite_int8")
EXPORTS = "tflite(), tflite(quantize='int8')"


def main() -> None:
    """Run the benchmark."""
    benchmark_flags = [flag for flag in sys.argv[1:] if flag.startswith(("--seeds=", "--chains="))]
    options = dict(flag.split("=", 1) for flag in benchmark_flags)
    seeds = [seed for seed in options.get("--seeds", "0,1,2").split(",") if seed]
    chains = [chain.strip() for chain in options.get("--chains", CHAINS).split(";")]
    flags = [*DEFAULT_FLAGS, *(flag for flag in sys.argv[1:] if flag not in benchmark_flags)]
    run, _ = flagfile.parse_flags([sys.argv[0], *flags], Run())
    title = f"{run.backbone}, {run.data}"
    results: dict[str, Any] = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            seed_flags = [*flags, f"--seed={seed}", f"--exports={EXPORTS}", "--verify.max_drop=1"]
            baseline = train_model(Path(folder) / "base", seed_flags)
            for index, chain in enumerate(chains):
                scores = baseline
                if chain:
                    workdir = Path(folder) / str(index)
                    shutil.copytree(Path(folder) / "base", workdir)
                    scores = train_model(workdir, [*seed_flags, f"--compress={chain}"])
                for format in FORMATS:
                    row = compute_differences(scores[format], baseline["tflite"])
                    print(seed, chain, format, row, file=sys.stderr)
                    results.setdefault(title, {}).setdefault(chain, {}).setdefault(format, {})[seed] = row
        RUNS.write_text(json.dumps(results, indent=1))
    record(f"compression {title}", f"Compression: {title}", format_table(results[title]))


def format_table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return a Markdown table with one row per chain and file."""
    seeds = sorted({seed for formats in results.values() for rows in formats.values() for seed in rows}, key=int)
    lines = [
        f"| compress | file | points | {' | '.join(f'seed {seed}' for seed in seeds)} | size | zipped | zeros |",
        "|---|---|---|" + "---|" * (len(seeds) + 3),
    ]
    for chain, formats in results.items():
        for format, rows in formats.items():
            points, size, zipped, zeros = np.mean(list(rows.values()), axis=0)
            name = f"`{chain}`" if chain else "none"
            seed_points = " | ".join(f"{rows[seed][0]:+.1f}" if seed in rows else "-" for seed in seeds)
            lines.append(
                f"| {name} | `{format}` | {points:+.1f} | {seed_points} | {size:.2f} | {zipped:.2f} | {zeros:.0%} |"
            )
    lines.append(
        "\nPoints: score minus that of the float file without compression, mean and each split. Sizes are ratios to "
        "that file."
    )
    return "\n".join(lines)


def train_model(workdir: Path, flags: list[str]) -> dict:
    """Train, and return the entry of every file in scores.json with its size and zipped size."""
    command = [sys.executable, "-m", "tfx_finetune.train", f"--workdir={workdir}", *flags]
    # Exit status 3: a file failed verification, which is a result too.
    if subprocess.run(command, check=False).returncode not in (0, 3):
        raise SystemExit(f"failed: {' '.join(command)}")
    scores = json.loads((workdir / "bundle" / "scores.json").read_text())
    manifest_files = json.loads((workdir / "bundle" / "manifest.json").read_text())["files"]
    for format, entry in manifest_files.items():
        path = workdir / "bundle" / entry["path"]
        scores[format] |= {"bytes": entry["bytes"], "compressed_bytes": files.compute_compressed_size(path)}
    return scores


def compute_differences(scores: dict, baseline: dict) -> list[float]:
    """Return the gained points, the ratios of size and zipped size, and the fraction of zeros."""
    ratios = [scores[key] / baseline[key] for key in ("bytes", "compressed_bytes")]
    return [100 * (scores["score"] - baseline["score"]), *ratios, scores["sparsity"]]


if __name__ == "__main__":
    main()
