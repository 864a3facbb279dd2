"""Compare the speed of frozen backbones: Keras, the LiteRT engine of this package, and PyTorch if it is installed.

    python benchmarks/trunk.py [--samples=256] [--only=e5_small,use_multilingual]

Writes samples per second and their ratios into benchmarks/RESULTS.md: medians of three alternating passes, with the
multiplications and additions per second, and those of a plain matrix product for comparison.
"""

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# Speed does not depend on what the weights are. timm's name, where it has the network.
BACKBONES_MEASURED = {
    "efficientnet_lite0()": "tf_efficientnet_lite0",
    "torchvision_mobilenet_v2()": "mobilenetv2_100",
    "mobilenet_v3_small(weights='none')": "mobilenetv3_small_100",
    "efficientnet_b0(weights='none')": "efficientnet_b0",
    "resnet50(weights='none')": "resnet50",
    "speech_embedding(weights='none')": "",
    "e5_small(weights='none')": "",
    "use_multilingual(weights='none')": "",
    "bag_of_embeddings()": "",
}
PASSES = 3


def main() -> None:
    """Run the benchmark."""
    if worker := [flag.partition("=")[2].split(",") for flag in sys.argv if flag.startswith("--torch=")]:
        name, size, count = worker[0]
        print(torch_worker(name, int(size), int(count)))
        return
    given = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    samples, only = int(given.get("samples", 256)), given.get("only", "").split(",")
    from results import record

    head = (
        "| backbone | Keras | LiteRT engine | PyTorch | engine / Keras | engine / PyTorch | GFLOP/s, Keras | engine |"
    )
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for spec, torch_name in BACKBONES_MEASURED.items():
        if not any(spec.startswith(name) for name in only):
            continue
        speed = measure(spec, torch_name, samples)
        theirs, ratio = ("-", "-")
        if "torch" in speed:
            theirs, ratio = f"{speed['torch']:.0f}", f"{speed['engine'] / speed['torch']:.1f}"
        ours = f"| {speed['keras']:.0f} | {speed['engine']:.0f} | {theirs}"
        work = [speed["operations"] * speed[name] / 1e9 for name in ("keras", "engine")]
        rows.append(
            f"| `{spec}` {ours} | {speed['engine'] / speed['keras']:.1f} | {ratio} | {work[0]:.0f} | {work[1]:.0f} |"
        )
    rows.append(
        "\nSamples per second. PyTorch: timm, channels_last, float32; - where it or the network is not installed."
    )
    rows.append(f"NumPy multiplies matrices of 2048 x 2048 at {product():.0f} GFLOP/s on the same cores.")
    title = "The frozen trunk" + (f": {given['only'].replace(',', ', ')}" if "only" in given else "")
    record(" ".join(["trunk", *sys.argv[1:]]), title, "\n".join(rows))


def measure(spec: str, torch_name: str, count: int) -> dict[str, float]:
    """Return samples per second by engine."""
    import keras

    from tfx_finetune.core.spec import parse_spec
    from tfx_finetune.training.engine import make_inference_fn
    from tfx_finetune.types.components import BACKBONES

    keras.backend.clear_session()
    backbone = BACKBONES.build(parse_spec(spec))
    trunk = keras.Model(backbone.inputs, backbone.features.pooled)
    trunk.compile(jit_compile=False)
    apply = make_inference_fn(trunk, 10**6)
    drawn = random(backbone.modality, (count, *backbone.inputs.shape[1:]))
    runs: dict[str, Callable[[], object]] = {
        "keras": lambda: trunk.predict(drawn.astype(backbone.inputs.dtype), batch_size=32, verbose=0),
        "engine": lambda: [apply(drawn[start : start + 32]) for start in range(0, count, 32)],
    }
    found = {name: count / seconds for name, seconds in medians(runs).items()}
    found["operations"] = operations(trunk)
    theirs = in_torch(torch_name, backbone.inputs.shape[1], count)
    return found if theirs is None else found | {"torch": theirs}


def random(modality: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return samples as the pipeline prepares them: pixels, waveforms, or texts of the tower's full length."""
    rng = np.random.default_rng(0)
    if modality == "audio":
        return rng.uniform(-1, 1, shape).astype(np.float32)
    return rng.integers(1, 256, shape).astype(np.uint8 if modality == "image" else np.int32)


def operations(model: Any) -> float:
    """Return the multiplications and additions of one sample in convolutions and dense layers."""
    total = 0
    for layer in model.layers:
        kernel = next((weight for weight in layer.weights if weight.name == "kernel"), None)
        if kernel is not None:
            # A depthwise kernel has its channels last too: each of its numbers meets every place of the output once.
            total += 2 * math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return float(total)


def product() -> float:
    """Return the GFLOP/s of a product of two matrices."""
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    return 2 * 2048**3 / medians({"product": lambda: a @ a})["product"] / 1e9


def medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each function, with alternating passes so that other load affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # tracing and conversion
    for _ in range(PASSES):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_torch(name: str, size: int, count: int) -> float | None:
    """Return images per second of the network in PyTorch, in its own process because it conflicts with TensorFlow."""
    command = [sys.executable, __file__, f"--torch={name},{size},{count}"]
    found = subprocess.run(command, capture_output=True, text=True)
    return float(found.stdout) if name and found.returncode == 0 else None


def torch_worker(name: str, size: int, count: int) -> float:
    """Return images per second of a timm network without classifier, in batches of 32."""
    import timm
    import torch

    network = timm.create_model(name, num_classes=0).eval().to(memory_format=torch.channels_last)
    batches = torch.rand(count, 3, size, size).contiguous(memory_format=torch.channels_last).split(32)

    def run() -> object:
        with torch.inference_mode():
            return [network(batch) for batch in batches]

    return count / medians({"torch": run})["torch"]


if __name__ == "__main__":
    main()
