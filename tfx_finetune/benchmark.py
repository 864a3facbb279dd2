"""COMMAND: how fast the files of a bundle are on this machine, and how much memory they take.

    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle
    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle --format=tflite_int8 --threads=1
    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle --format=saved_model --batch_size=8

prints one JSON line a file and number of threads: `latency` of a call and `opening` of the file in milliseconds (the
median; 90 % of the calls are faster than `latency_p90`), and `memory`, the MB by which both made a process of its own
grow.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, hardware, plugins
from tfx_finetune.core.config import option
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.probe import measure, probe

if TYPE_CHECKING:
    from tfx_finetune.bundle.bundle import Bundle


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run")
    format: str = option("", "which of the bundle's files is measured, such as tflite_int8; by default each of them")
    batch_size: int = option(1, "samples a call; TFLite files take one", low=1)
    repeats: int = option(50, "calls, after one that warms up", low=1)
    threads: int = option(0, "threads to measure with; 0 for one, and then all that the machine has", low=0)
    plugins: str = option("", plugins.HELP)


def benchmark(options: BenchmarkOptions) -> None:
    """Prints the measurements of one file, or has each measured in a process of its own.

    Raises:
        UserError: The bundle, or a file of it, cannot be used.
    """
    from tfx_finetune.bundle.bundle import Bundle

    plugins.load(options.plugins)
    bundle = Bundle.open(options.bundle)
    if options.format:
        bundle.get_export(options.format)
    mine = options.threads == hardware.detect().threads  # TensorFlow's number cannot be changed any more
    if options.format and mine and bundle.get_path(options.format).suffix != ".tflite":
        print(
            json.dumps(_make_record(bundle, options.format, options.threads) | measure_file(bundle, options)),
            flush=True,
        )
        return
    every = [options.threads] if options.threads else sorted({1, hardware.detect().threads})
    for format in [options.format] if options.format else bundle.formats:
        if (path := bundle.get_path(format)).suffix == ".tflite":
            for found in probe([path], every, options.repeats):
                del found["path"]
                print(
                    json.dumps(_make_record(bundle, format, found["threads"]) | {"batch_size": 1} | found), flush=True
                )
            continue
        for threads in every:
            child = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tfx_finetune.benchmark",
                    *sys.argv[1:],
                    f"--format={format}",
                    f"--threads={threads}",
                ],
                env=os.environ | {"TF_NUM_INTRAOP_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if child.returncode:
                raise UserError("a file could not be measured", got=format)
            print(child.stdout, end="", flush=True)


def measure_file(bundle: "Bundle", options: BenchmarkOptions) -> dict[str, float]:
    """Latency and memory of one file of a bundle in this process, on random input, which takes as long as any other."""
    import numpy as np

    from tfx_finetune.types.components import MODALITY_MASK

    rng = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {
        tower: rng.integers(0, 256, (options.batch_size, *modality.shape)).astype(modality.input_dtype)
        for tower, modality in bundle.modalities.items()
    }
    if len(inputs) > 1:
        inputs[MODALITY_MASK] = np.ones((options.batch_size, len(inputs)), np.float32)

    def start() -> Callable[[], object]:
        predict = bundle.load_model(options.format).predict
        return lambda: predict(inputs)

    return {"batch_size": options.batch_size} | measure(start, options.repeats)


def _make_record(bundle: "Bundle", format: str, threads: int) -> dict[str, object]:
    known = bundle.manifest["files"][format]
    return {"format": format, "file": known["path"], "bytes": known["bytes"], "threads": threads}


def main() -> None:
    """Runs the command."""
    command.run(benchmark, BenchmarkOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
