"""Measure time and peak memory of a run over 1,000, 4,000 and 16,000 images.

    python benchmarks/scale.py [--counts=1000,4000,16000]

Writes into benchmarks/RESULTS.md the wall time and the peak memory of the training process for each count, and the
ratios. Memory is anonymous pages: mapped files, such as cached features, are released when the system needs memory.
"""

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from results import record

FLAGS = (
    "--backbone=efficientnet_lite0(size=96)",
    "--frozen.epochs=2",
    "--finetune.epochs=1",
    "--finetune.unfreeze=2",
    "--exports=tflite()",
)


def main() -> None:
    """Run the benchmark."""
    counts = [flag.partition("=")[2] for flag in sys.argv if flag.startswith("--counts=")] or ["1000,4000,16000"]
    rows = ["| images | peak memory, MB | wall time, s |", "|---|---|---|"]
    measurements = []
    for count in map(int, counts[0].split(",")):
        with tempfile.TemporaryDirectory() as folder:
            measurements.append(measure(Path(folder), count))
        rows.append(f"| {count:,} | {measurements[-1][0]:.0f} | {measurements[-1][1]:.0f} |")
    (first_memory, first_time), (last_memory, last_time) = measurements[0], measurements[-1]
    rows.append(
        f"\nRatio of the last to the first: memory {last_memory / first_memory:.2f}, time {last_time / first_time:.2f}."
    )
    record("scale", "Time and memory by the number of images", "\n".join(rows))


def measure(folder: Path, count: int) -> tuple[float, float]:
    """Return peak memory in MB and wall time in seconds of a run over `count` images."""
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(lambda index: write_image(folder / "photos" / f"class{index % 4}" / f"{index}.jpg"), range(count))
        )
    command = [sys.executable, "-m", "tfx_finetune.train", f"--data={folder / 'photos'}", *FLAGS]
    command += [f"--workdir={folder / 'run'}", "--nocache.enabled", "--verify.max_drop_float=1"]
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, read_anonymous_memory(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"the run over {count} images ended with status {process.returncode}")
    return peak / 1e3, time.monotonic() - start


def write_image(path: Path) -> None:
    """Write a smooth random image whose colors depend on its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(path.stem))
    coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
    coarse[..., int(path.stem) % 3] //= 2
    Image.fromarray(coarse).resize((200, 160), Image.Resampling.BICUBIC).save(path, quality=85)


def read_anonymous_memory(pid: int) -> int:
    """Return the resident anonymous memory of a process in kB; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
