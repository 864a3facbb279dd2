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

# timm's name of each backbone; empty if timm lacks it. Speed does not depend on the weights.
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
        print(measure_torch(name, int(size), int(count)))
        return
    options = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    samples, prefixes = int(options.get("samples", 256)), options.get("only", "").split(",")
    from results import record

    header = (
        "| backbone | Keras | LiteRT engine | PyTorch | engine / Keras | engine / PyTorch | GFLOP/s, Keras | engine |"
    )
    rows = [header, "|---|---|---|---|---|---|---|---|"]
    for spec, torch_name in BACKBONES_MEASURED.items():
        if not any(spec.startswith(name) for name in prefixes):
            continue
        speed = measure(spec, torch_name, samples)
        torch_text, ratio = ("-", "-")
        if "torch" in speed:
            torch_text, ratio = f"{speed['torch']:.0f}", f"{speed['engine'] / speed['torch']:.1f}"
        speed_columns = f"| {speed['keras']:.0f} | {speed['engine']:.0f} | {torch_text}"
        gflops = [speed["operations"] * speed[name] / 1e9 for name in ("keras", "engine")]
        rows.append(
            f"| `{spec}` {speed_columns} | {speed['engine'] / speed['keras']:.1f} | {ratio} "
            f"| {gflops[0]:.0f} | {gflops[1]:.0f} |"
        )
    rows.append(
        "\nSamples per second. PyTorch: timm, channels_last, float32; - where it or the network is not installed."
    )
    rows.append(f"NumPy multiplies matrices of 2048 x 2048 at {measure_matmul():.0f} GFLOP/s on the same cores.")
    title = "The frozen trunk" + (f": {options['only'].replace(',', ', ')}" if "only" in options else "")
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
    infer = make_inference_fn(trunk, 10**6)
    samples = make_samples(backbone.modality, (count, *backbone.inputs.shape[1:]))
    runs: dict[str, Callable[[], object]] = {
        "keras": lambda: trunk.predict(samples.astype(backbone.inputs.dtype), batch_size=32, verbose=0),
        "engine": lambda: [infer(samples[start : start + 32]) for start in range(0, count, 32)],
    }
    speeds = {name: count / seconds for name, seconds in measure_medians(runs).items()}
    speeds["operations"] = count_operations(trunk)
    torch_speed = run_torch_worker(torch_name, backbone.inputs.shape[1], count)
    return speeds if torch_speed is None else speeds | {"torch": torch_speed}


def make_samples(modality: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return samples as the pipeline prepares them: pixels, waveforms, or texts of the tower's full length."""
    rng = np.random.default_rng(0)
    if modality == "audio":
        return rng.uniform(-1, 1, shape).astype(np.float32)
    return rng.integers(1, 256, shape).astype(np.uint8 if modality == "image" else np.int32)


def count_operations(model: Any) -> float:
    """Return the multiplications and additions of one sample in convolutions and dense layers."""
    total = 0
    for layer in model.layers:
        kernel = next((weight for weight in layer.weights if weight.name == "kernel"), None)
        if kernel is not None:
            # A depthwise kernel has its channels last too: each of its weights is applied once per output position.
            total += 2 * math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return float(total)


def measure_matmul() -> float:
    """Return the GFLOP/s of a product of two matrices."""
    matrix = np.random.default_rng(0).random((2048, 2048), np.float32)
    return 2 * 2048**3 / measure_medians({"product": lambda: matrix @ matrix})["product"] / 1e9


def measure_medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each function, with alternating passes so that other load affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for function in runs.values():
        function()  # tracing and conversion
    for _ in range(PASSES):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def run_torch_worker(name: str, size: int, count: int) -> float | None:
    """Return images per second of the network in PyTorch, in its own process because it conflicts with TensorFlow."""
    command = [sys.executable, __file__, f"--torch={name},{size},{count}"]
    process = subprocess.run(command, capture_output=True, text=True)
    return float(process.stdout) if name and process.returncode == 0 else None


def measure_torch(name: str, size: int, count: int) -> float:
    """Return images per second of a timm network without classifier, in batches of 32."""
    import timm
    import torch

    network = timm.create_model(name, num_classes=0).eval().to(memory_format=torch.channels_last)
    batches = torch.rand(count, 3, size, size).contiguous(memory_format=torch.channels_last).split(32)

    def run() -> object:
        with torch.inference_mode():
            return [network(batch) for batch in batches]

    return count / measure_medians({"torch": run})["torch"]


if __name__ == "__main__":
    main()
