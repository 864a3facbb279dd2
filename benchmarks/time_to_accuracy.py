"""Compare accuracy and cost with two common recipes: the Keras transfer-learning guide and a PyTorch loop.

    python benchmarks/time_to_accuracy.py [--data=tux,fashion] [--seeds=0,1,2] [--only=ours,warm_cache,guide,torch]

The stamps at 224 pixels and 10,000 images of Fashion-MNIST at 96 pixels: the same split, prepared images and
EfficientNet-Lite0 weights. Each recipe is a process of its own; `ours` is the command with default options and a Keras
file as the only export, with an empty cache; `warm_cache` is the same again with cached features. PyTorch takes part if
it can be imported (pip install torch torchvision timm). Writes accuracy, wall time, CPU time and peak memory of every
run to benchmarks/time_to_accuracy.json, which keeps earlier calls, and mean accuracy and the cost of the fastest run to
benchmarks/RESULTS.md. Time ratios to `ours` are from runs of one call, because machines differ between days.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUNS = Path(__file__).with_suffix(".json")
SIZES = {"tux": 224, "fashion": 96}
RECIPES = ("ours", "warm_cache", "guide", "torch")
TITLES = {
    "ours": "this package, empty cache",
    "warm_cache": "this package, cached features",
    "guide": "Keras guide's recipe",
    "torch": "PyTorch loop",
}


def main() -> None:
    """Run the benchmark, or one recipe of it."""
    options = {name: value.split(",") for name, _, value in (flag.partition("=") for flag in sys.argv[1:])}
    if "--worker" in options:
        print(json.dumps(WORKERS[options["--worker"][0]](Path(options["--folder"][0]), int(options["--seed"][0]))))
        return
    from results import record

    call = int(time.time())
    results: dict[str, Any] = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    for data in options.get("--data", ["tux", "fashion"]):
        with tempfile.TemporaryDirectory() as folder:
            for seed in map(int, options.get("--seeds", ["0", "1", "2"])):
                seed_folder = Path(folder) / f"{data}{seed}"
                subprocess.run(
                    make_command("prepare_" + data, seed_folder, seed), check=True, stdout=subprocess.DEVNULL
                )
                package_wall = 0.0
                for name in options.get("--only", RECIPES):
                    result = run_recipe(make_command("ours" if name == "warm_cache" else name, seed_folder, seed))
                    package_wall = result["wall"] if name == "ours" else package_wall
                    result |= {"call": call} | ({"ratio": result["wall"] / package_wall} if package_wall else {})
                    print(data, seed, name, result, file=sys.stderr)
                    if "skipped" not in result:
                        results.setdefault(data, {}).setdefault(name, {})[str(seed)] = result
                        RUNS.write_text(json.dumps(results, indent=1))
        record(f"time_to_accuracy {data}", f"Time to accuracy, {data}", format_table(results[data]))


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with one row per recipe.

    Seconds are those of the fastest seed: all seeds do the same work, and other load can only add to it. The last
    column is the median over the seeds that were run with `ours` in one call.
    """
    rows = ["| recipe | seeds | accuracy | wall, s | CPU, s | peak MB | wall / ours |", "|---|---|---|---|---|---|---|"]
    for name in (name for name in RECIPES if name in results):
        seed_runs = results[name]
        accuracies = np.array([max(result["accuracy"].values()) for result in seed_runs.values()])
        phases = next(iter(seed_runs.values()))["accuracy"]
        phase_texts = ", ".join(
            f"{phase} {np.mean([run['accuracy'][phase] for run in seed_runs.values()]):.3f}" for phase in phases
        )
        wall, cpu, peak = (min(run[key] for run in seed_runs.values()) for key in ("wall", "cpu", "peak"))
        ratios = [run["ratio"] for run in seed_runs.values() if "ratio" in run]
        ratio = f"{np.median(ratios):.1f}" if ratios else "-"
        spread = f" ± {accuracies.std(ddof=1):.3f}" if len(accuracies) > 1 else ""
        rows.append(
            f"| {TITLES[name]} | {len(accuracies)} | {accuracies.mean():.3f}{spread} ({phase_texts}) "
            f"| {wall:.0f} | {cpu:.0f} | {peak:.0f} | {ratio} |"
        )
    for name in (name for name in ("ours", "warm_cache") if name in results):
        runs = [run | {"rest": run["wall"] - sum(run["stages"].values())} for run in results[name].values()]
        stage_seconds = {stage: np.mean([run["stages"].get(stage, 0.0) for run in runs]) for stage in runs[0]["stages"]}
        stage_seconds["start, tracing, report"] = np.mean([run["rest"] for run in runs])
        stage_texts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stage_seconds.items())
        rows.append(f"\nSeconds of *{TITLES[name]}*: {stage_texts}.")
    warm_runs, guide_runs = results.get("warm_cache", {}), results.get("guide", {})
    shared_seeds = [
        seed
        for seed in warm_runs.keys() & guide_runs.keys()
        if warm_runs[seed].get("call") == guide_runs[seed].get("call")
    ]
    if seeds := [seed for seed in shared_seeds if "call" in guide_runs[seed]]:
        speedup = np.median([guide_runs[seed]["wall"] / warm_runs[seed]["stages"]["finetune"] for seed in seeds])
        rows.append(f"\nIf all but phase `finetune` were free, the guide would take {speedup:.0f} times as long.")
    return "\n".join(rows)


def make_command(name: str, folder: Path, seed: int) -> list[str]:
    """Return the command line of one recipe."""
    return [sys.executable, __file__, f"--worker={name}", f"--folder={folder}", f"--seed={seed}"]


def run_recipe(command: list[str]) -> dict[str, Any]:
    """Run a recipe, and return its printed result with wall and CPU seconds and peak memory in MB."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        log.seek(0)
        log_text = log.read()
    if status:
        raise SystemExit(f"{command} ended with status {status}: {log_text.splitlines()[-1]}")
    costs = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1e3}
    stages = {
        name.strip(): float(seconds) for name, seconds in re.findall(r"^(\w.*?) +([\d.]+) s  ", log_text, re.MULTILINE)
    }
    return json.loads(output.splitlines()[-1]) | costs | {"stages": stages}


def prepare_tux(folder: Path, seed: int) -> None:
    """Write the package's split of the stamps as prepared images in train/ and test/."""
    prepare(folder, "tux_stamps()", seed, SIZES["tux"], 10**9)


def prepare_fashion(folder: Path, seed: int) -> None:
    """Write 10,000 training images of Fashion-MNIST, sampled by the seed, and its test images."""
    prepare(folder, "idx(package='fashion-mnist')", seed, SIZES["fashion"], 10_000)


def prepare(folder: Path, source: str, seed: int, size: int, max_samples: int) -> None:
    """Write PNG files to train/<class>/ and test/<class>/, and a table of them with their groups."""
    from PIL import Image

    from tfx_finetune.core.config import Run, SplitOptions
    from tfx_finetune.run.load_data import prepare_data
    from tfx_finetune.run.plan import check
    from tfx_finetune.types.components import PretrainedCfg

    run = Run(data=source, seed=seed, augment="", split=SplitOptions(val=0.0), workdir=str(folder))
    data = prepare_data(check(run), {"image": PretrainedCfg(size=size)})
    names = data.tasks["label"].labels.names
    lines = ["path,label,split,group"]
    for split in ("train", "test"):
        groups = data.table.columns["group"][data.table.split == split]
        indices = range(len(groups))
        if split == "train" and len(groups) > max_samples:
            indices = np.random.default_rng(seed).permutation(len(groups))[:max_samples].tolist()
        selected, index = set(indices), 0
        for inputs, targets, _ in data.make_batches(split).as_numpy_iterator():
            for pixels, target in zip(inputs["image"], targets["label"], strict=True):
                path = Path(split) / names[int(target.argmax())] / f"{index:06}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                if index in selected:
                    Image.fromarray(pixels).save(folder / path, compress_level=1)
                    lines.append(f'"{path}","{path.parent.name}",{split},"{groups[index]}"')
                index += 1
    (folder / "samples.csv").write_text("\n".join(lines) + "\n")


def train_package(folder: Path, seed: int) -> dict[str, Any]:
    """Run the package's command with default options."""
    import tfx_finetune as tfx
    from tfx_finetune.core import assets
    from tfx_finetune.core.config import CacheOptions

    size = read_image_size(next((folder / "train").rglob("*.png")))
    run_index = len(list(folder.glob("run*")))
    # The packages are shared with the default cache; the cached features are not.
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "packages").exists():
        (cache / "packages").symlink_to(assets.get_cache_dir() / "packages")
    run = tfx.Run(
        data=str(folder / "samples.csv"),
        seed=seed,
        backbone=f"efficientnet_lite0(size={size})",
        exports="keras_file()",
        workdir=str(folder / f"run{run_index}"),
        cache=CacheOptions(dir=str(cache)),
    )
    bundle = tfx.train(run)
    scores = json.loads((bundle.path / "scores.json").read_text())
    return {"accuracy": {"finetune": scores["test"]["label/accuracy"]}}


def read_image_size(path: Path) -> int:
    """Return the side of the prepared images in pixels."""
    from PIL import Image

    return Image.open(path).size[0]


def train_keras_guide(folder: Path, seed: int) -> dict[str, Any]:
    """Train by https://keras.io/guides/transfer_learning: 10 frozen and 10 unfrozen epochs with Keras's defaults."""
    import keras

    from tfx_finetune.models.backbones.efficientnet_lite import efficientnet_lite

    keras.utils.set_random_seed(seed)
    size = read_image_size(next((folder / "train").rglob("*.png")))
    options = {"image_size": (size, size), "batch_size": 32, "label_mode": "int"}
    train = keras.utils.image_dataset_from_directory(folder / "train", seed=seed, **options)
    test = keras.utils.image_dataset_from_directory(folder / "test", shuffle=False, **options)
    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def augment(x: Any, y: Any) -> Any:
        for layer in layers:
            x = layer(x, training=True)
        return x, y

    train = train.map(augment, num_parallel_calls=2).prefetch(2)
    backbone = efficientnet_lite(0, size=size)
    base = keras.Model(backbone.inputs, backbone.groups[-1].output)
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = base(inputs, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(len(test.class_names))(x))
    accuracy = {}
    for phase, learning_rate in (("frozen", 1e-3), ("unfrozen", 1e-5)):
        base.trainable = phase == "unfrozen"
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # By default Keras compiles for XLA on a CPU too, which takes ten times as long here.
        model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"], jit_compile=False)
        model.fit(train, epochs=10, verbose=0)
        accuracy[phase] = float(model.evaluate(test, verbose=0)[1])
    return {"accuracy": accuracy}


def train_pytorch(folder: Path, seed: int) -> dict[str, Any]:
    """Train timm's EfficientNet-Lite0 with AdamW and one cycle: 10 epochs of the head, 8 of all layers at 3e-4."""
    try:
        import timm
        import torch as pytorch
        import torchvision
        from torchvision.transforms import v2 as transforms
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    from tfx_finetune.core import assets

    pytorch.manual_seed(seed)
    preprocessing = [
        transforms.ToImage(),
        transforms.ToDtype(pytorch.float32),
        transforms.Normalize([127.0] * 3, [128.0] * 3),
    ]
    sets = {
        "train": torchvision.datasets.ImageFolder(
            folder / "train", transforms.Compose([transforms.RandomHorizontalFlip(), *preprocessing])
        ),
        "test": torchvision.datasets.ImageFolder(folder / "test", transforms.Compose(preprocessing)),
    }
    loaders = {
        split: pytorch.utils.data.DataLoader(dataset, 32, shuffle=split == "train", num_workers=1)
        for split, dataset in sets.items()
    }
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The weight file has other names in the same order.
    state = pytorch.load(assets.fetch_file("efficientnet-lite0"), map_location="cpu").items()
    weights = [value for name, value in state if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, weights, strict=True)), strict=False)
    model.reset_classifier(len(sets["train"].classes))
    model = model.to(memory_format=pytorch.channels_last)
    accuracy = {}
    for phase, epochs, learning_rate in (("head", 10, 1e-3), ("whole", 8, 3e-4)):
        for name, weight in model.named_parameters():
            weight.requires_grad = phase == "whole" or name.startswith("classifier")
        parameters = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = pytorch.optim.AdamW(parameters, learning_rate)
        cycle = pytorch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=epochs * len(loaders["train"])
        )
        for _ in range(epochs):
            model.train(phase == "whole")
            for x, y in loaders["train"]:
                loss = pytorch.nn.functional.cross_entropy(
                    model(x.to(memory_format=pytorch.channels_last)), y, label_smoothing=0.1
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
        model.eval()
        with pytorch.inference_mode():
            is_correct = [(model(x).argmax(1) == y).float() for x, y in loaders["test"]]
        accuracy[phase] = float(pytorch.cat(is_correct).mean())
    return {"accuracy": accuracy}


WORKERS: dict[str, Callable[[Path, int], dict[str, Any] | None]] = {
    "prepare_tux": prepare_tux,
    "prepare_fashion": prepare_fashion,
    "ours": train_package,
    "guide": train_keras_guide,
    "torch": train_pytorch,
}


if __name__ == "__main__":
    main()
