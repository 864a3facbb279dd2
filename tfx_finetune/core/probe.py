"""How fast LiteRT files are and how much memory they take, each in a process that does nothing else.

    python -m tfx_finetune.core.probe 50 1,2 model.tflite model_int8.tflite

prints one JSON line a file and number of threads. This process holds no TensorFlow, which would hide what a file takes.
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
    """Measures LiteRT files on random input, which takes as long as any other.

    Args:
        paths: The files; one that does not run is left out.
        threads: Numbers of threads to measure with.
        repeats: Calls, after one that warms up.

    Returns:
        For each file and number of threads: `path`, `threads`, and what `measure` gives.
    """
    command = [sys.executable, "-m", "tfx_finetune.core.probe", str(repeats), ",".join(map(str, threads))]
    found = subprocess.run([*command, *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return [json.loads(line) for line in found.stdout.splitlines()]


def measure(open_fn: Callable[[], Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Speed and memory, by name.

    Args:
        start: Opens what is measured, and returns the call.
        repeats: Calls, after one that warms up.

    Returns:
        `opening` and `latency` in milliseconds (of a call, the median; 90 % are faster than `latency_p90`), and the
        `memory` in MB that both took.
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
    """Milliseconds of each of so many calls, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return times


def get_peak_memory() -> float:
    """Largest memory that this process has had, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says begins with the size of the process that started this one.
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
    return interpreter.invoke


def main() -> None:
    """Measures the files of the command line."""
    # Its own import is not the files' memory.
    for module in ("ai_edge_litert.interpreter", "numpy"):
        importlib.import_module(module)
    repeats, threads = int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")]
    for path in sys.argv[3:]:
        for number in threads:
            # A copy of this process for each: what one file took is not given back for the next.
            if hasattr(os, "fork") and (child := os.fork()):
                os.waitpid(child, 0)
                continue
            try:
                found = measure(lambda path=path, number=number: _open_interpreter(path, number), repeats)  # type: ignore[misc]
                print(json.dumps({"path": path, "threads": number} | found), flush=True)
            finally:
                if hasattr(os, "fork"):
                    os._exit(0)


if __name__ == "__main__":
    main()
