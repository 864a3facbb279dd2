"""How fast is the frozen trunk? Keras's predict, this package's engine, and PyTorch where it is installed.

    python benchmarks/trunk.py [--pictures=256]

Writes pictures a second and their ratios into benchmarks/RESULTS.md: the median of three passes, taken in turns.
"""

import statistics
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
from results import record

from tfx_finetune.contracts import BACKBONES
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.engine import engine

# Speed does not depend on what the weights are. torchvision's name, where it has the network.
BACKBONES_MEASURED = {
    "efficientnet_lite0()": "",
    "torchvision_mobilenet_v2()": "mobilenet_v2",
    "mobilenet_v3_small(weights='none')": "mobilenet_v3_small",
    "efficientnet_b0(weights='none')": "efficientnet_b0",
    "resnet50(weights='none')": "resnet50",
}
PASSES = 3


def main() -> None:
    """Runs the benchmark."""
    given = [int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--pictures=")] or [256]
    head = "| backbone | Keras | LiteRT engine | PyTorch | engine / Keras | engine / PyTorch |"
    rows = [head, "|---|---|---|---|---|---|"]
    for spec, torch_name in BACKBONES_MEASURED.items():
        speed = measure(spec, torch_name, given[0])
        theirs, ratio = ("-", "-")
        if "torch" in speed:
            theirs, ratio = f"{speed['torch']:.0f}", f"{speed['engine'] / speed['torch']:.1f}"
        ours = f"| {speed['keras']:.0f} | {speed['engine']:.0f} | {theirs}"
        rows.append(f"| `{spec}` {ours} | {speed['engine'] / speed['keras']:.1f} | {ratio} |")
    rows.append("\nPictures a second. PyTorch: channels_last, float32; - where it or the network is not installed.")
    record("trunk", "The frozen trunk", "\n".join(rows))


def measure(spec: str, torch_name: str, count: int) -> dict[str, float]:
    """Pictures a second by what runs the backbone."""
    keras.backend.clear_session()
    backbone = BACKBONES.build(parse_spec(spec))
    trunk = keras.Model(backbone.inputs, backbone.features.pooled)
    trunk.compile(jit_compile=False)
    apply = engine(trunk, 10**6)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *backbone.inputs.shape[1:])).astype(np.uint8)
    runs: dict[str, Callable[[], object]] = {
        "keras": lambda: trunk.predict(pixels.astype(np.float32), batch_size=32, verbose=0),
        "engine": lambda: [apply(pixels[start : start + 32]) for start in range(0, count, 32)],
    }
    if torch_run := in_torch(torch_name, pixels):
        runs["torch"] = torch_run
    return {name: count / seconds for name, seconds in medians(runs).items()}


def medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, the passes taken in turns so that a busy moment falls on all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # tracing and conversion
    for _ in range(PASSES):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_torch(name: str, pixels: np.ndarray) -> Callable[[], object] | None:
    """The same network in PyTorch, batches of 32, if it is there."""
    try:
        import torch
        import torchvision
    except ImportError:
        return None
    if not name:
        return None
    network = getattr(torchvision.models, name)(weights=None).features if name != "resnet50" else None
    network = network or torchvision.models.resnet50(weights=None)
    network = network.eval().to(memory_format=torch.channels_last)
    batches = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last).split(32)
    )

    def run() -> object:
        with torch.inference_mode():
            return [network(batch) for batch in batches]

    return run


if __name__ == "__main__":
    main()
