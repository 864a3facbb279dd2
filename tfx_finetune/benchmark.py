"""Measure the speed and memory of the files of a bundle on this machine.

    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle
    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle --format=tflite_int8 --threads=1
    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle --format=saved_model --batch_size=8

The command prints one JSON line per file and number of threads: the milliseconds of a call (`latency`, median, and
`latency_p90`, 90th percentile) and of opening the file (`opening`), and the MB of `memory` that both take.
Exit status: 0 success, 2 user error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command, hardware, plugins
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import option
from tfx_finetune.core.probe import measure, probe

if TYPE_CHECKING:
    from tfx_finetune.bundle.bundle import Bundle


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the command."""

    bundle: str = option("", "folder bundle/ of a finished run")
    format: str = option("", "file of the bundle to measure, such as tflite_int8; default: all files")
    batch_size: int = option(1, "samples per call; TFLite files take one", low=1)
    repeats: int = option(50, "timed calls, after one call for warmup", low=1)
    threads: int = option(0, "number of threads; 0 for one thread, and then all threads of the machine", low=0)
    plugins: str = option("", plugins.HELP)


def benchmark(options: BenchmarkOptions) -> None:
    """Print the measurements of one file, or measure every file in a process of its own.

    Raises:
        UserError: If the bundle or one of its files cannot be used.
    """
    from tfx_finetune.bundle.bundle import Bundle

    plugins.load(options.plugins)
    bundle = Bundle.open(options.bundle)
    if options.format:
        bundle.get_export(options.format)
    # The number of threads of TensorFlow is fixed once it is imported.
    has_threads = options.threads == hardware.detect().threads
    if options.format and has_threads and bundle.get_path(options.format).suffix != ".tflite":
        print(
            json.dumps(_make_record(bundle, options.format, options.threads) | measure_file(bundle, options)),
            flush=True,
        )
        return
    thread_counts = [options.threads] if options.threads else sorted({1, hardware.detect().threads})
    for format in [options.format] if options.format else bundle.formats:
        if (path := bundle.get_path(format)).suffix == ".tflite":
            for values in probe([path], thread_counts, options.repeats):
                del values["path"]
                print(
                    json.dumps(_make_record(bundle, format, values["threads"]) | {"batch_size": 1} | values), flush=True
                )
            continue
        for threads in thread_counts:
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
                raise UserError("A file could not be measured", got=format)
            print(child.stdout, end="", flush=True)


def measure_file(bundle: "Bundle", options: BenchmarkOptions) -> dict[str, float]:
    """Measure latency and memory of one file of a bundle in this process, on random input."""
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
    entry = bundle.manifest["files"][format]
    return {"format": format, "file": entry["path"], "bytes": entry["bytes"], "threads": threads}


def main() -> None:
    """Run the command."""
    command.run(benchmark, BenchmarkOptions(), __doc__ or "")


if __name__ == "__main__":
    main()
