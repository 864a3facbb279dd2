"""Measures speed and memory of LiteRT files, each in a process of its own.

    python -m tfx_finetune.core.probe 50 1,2 model.tflite model_int8.tflite

The command prints one JSON line per file and number of threads. The process does not import TensorFlow, whose memory
would hide the memory of a file.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def probe(paths: Sequence[Path], threads: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Measure LiteRT files on random input.

    Args:
        paths: Paths of the files; a file that does not run is skipped.
        threads: Numbers of threads.
        repeats: Number of timed calls, after one call for warmup.

    Returns:
        For each file and number of threads: `path`, `threads`, and the values of `measure`.
    """
    command = [sys.executable, "-m", "tfx_finetune.core.probe", str(repeats), ",".join(map(str, threads))]
    child = subprocess.run([*command, *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return [json.loads(line) for line in child.stdout.splitlines()]


def measure(open_fn: Callable[[], Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Measure speed and memory of a function.

    Args:
        open_fn: Opens the model and returns the function to measure.
        repeats: Number of timed calls, after one call for warmup.

    Returns:
        `opening`, the milliseconds of `open_fn`; `latency` and `latency_p90`, median and 90th percentile of the
        milliseconds of a call; `memory`, the MB by which the peak memory of the process grew.
    """
    before, started = get_peak_memory(), time.perf_counter()
    call = open_fn()
    opening = time.perf_counter() - started
    times = measure_latencies(call, repeats)
    return {
        "latency": round(statistics.median(times), 3),
        "latency_p90": round(sorted(times)[int(0.9 * (len(times) - 1))], 3),
        "opening": round(1000 * opening, 1),
        "memory": round(get_peak_memory() - before, 1),
    }


def measure_latencies(call: Callable[[], Any], repeats: int) -> list[float]:
    """Return the milliseconds of each of `repeats` calls, after one call for warmup."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return times


def get_peak_memory() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # The value of getrusage includes the size of the parent process before exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1e3)


def _open_interpreter(path: str, threads: int) -> Callable[[], Any]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        low = -128 if detail["dtype"] == np.int8 else 0
        values = rng.integers(low, low + 256, detail["shape"])
        interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
    return lambda: interpreter.invoke()


def main() -> None:
    """Measure the files of the command line."""
    # The imports must not count as memory of a file.
    for module in ("ai_edge_litert.interpreter", "numpy"):
        importlib.import_module(module)
    repeats, threads = int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")]
    for path in sys.argv[3:]:
        for number in threads:
            # Each measurement runs in a fork, since a process does not return memory to the system.
            if hasattr(os, "fork") and (child := os.fork()):
                os.waitpid(child, 0)
                continue
            try:
                values = measure(lambda path=path, number=number: _open_interpreter(path, number), repeats)  # type: ignore[misc]
                print(json.dumps({"path": path, "threads": number} | values), flush=True)
            finally:
                if hasattr(os, "fork"):
                    os._exit(0)


if __name__ == "__main__":
    main()
