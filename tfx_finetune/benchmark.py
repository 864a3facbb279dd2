"""COMMAND: how fast the files of a bundle are on this machine, and how much memory they take.

    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle
    python -m tfx_finetune.benchmark --bundle=runs/tux/bundle --format=tflite_int8 --batch=8

prints one JSON line a file: milliseconds of one call (median, and 90 % are faster than p90) and of its opening, and the
MB by which opening and running it made a process of its own grow.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfx_finetune.core import command
from tfx_finetune.core.config import option
from tfx_finetune.core.errors import UserError

if TYPE_CHECKING:
    from tfx_finetune.bundle import Bundle


@dataclass(frozen=True)
class Benchmark:
    """Options of the command."""

    bundle: str = option("", "the folder bundle/ of a finished run")
    format: str = option("", "which of the bundle's files is measured, such as tflite_int8; by default each of them")
    batch: int = option(1, "samples a call; a TFLite file takes them one by one", low=1)
    repeats: int = option(50, "calls, after one that warms up", low=1)
    plugins: str = option("", "modules to import first, separated by commas")


def benchmark(options: Benchmark, rest: list[str]) -> None:
    """Prints the measurements of one file, or has each measured in a process of its own.

    Raises:
        UserError: The bundle, or a file of it, cannot be used.
    """
    from tfx_finetune.bundle import Bundle
    from tfx_finetune.plan import load_plugins

    load_plugins(options.plugins)
    bundle = Bundle.open(options.bundle)
    if options.format:
        print(json.dumps(measure(bundle, options)), flush=True)
        return
    for format in bundle.formats:
        child = subprocess.run(
            [sys.executable, "-m", "tfx_finetune.benchmark", *sys.argv[1:], f"--format={format}"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if child.returncode:
            raise UserError("a file could not be measured", received=format)
        print(child.stdout, end="", flush=True)


def measure(bundle: "Bundle", options: Benchmark) -> dict[str, object]:
    """Latency and memory of one file of a bundle, on random input, which takes as long as any other."""
    import numpy as np

    from tfx_finetune.verify import latencies

    shape = bundle.modality.shape
    rng = np.random.default_rng(0)
    inputs = {bundle.modality.column: rng.integers(0, 256, (options.batch, *shape)).astype(np.float32)}
    before, started = _peak(), time.perf_counter()
    predict = bundle.reader(options.format).predict
    opening = time.perf_counter() - started
    times = latencies(predict, inputs, options.repeats)
    return {
        "format": options.format,
        "file": bundle.manifest["files"][options.format]["path"],
        "bytes": bundle.manifest["files"][options.format]["bytes"],
        "batch": options.batch,
        "median_ms": round(float(np.median(times)), 3),
        "p90_ms": round(float(np.percentile(times, 90)), 3),
        "opening_ms": round(1000 * opening, 1),
        "memory_mb": round(_peak() - before, 1),
    }


def _peak() -> float:
    """Largest memory that this process has had, in MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Runs the command."""
    command.run(benchmark, Benchmark(), __doc__ or "")


if __name__ == "__main__":
    main()
