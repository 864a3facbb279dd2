"""Measure how well `data` finds planted issues: duplicates and broken files among stamps, label errors in MNIST.

    python benchmarks/data_care.py [stamps] [digits] [scale]      default: all

Each part writes a table into benchmarks/RESULTS.md: the planted issues, the recall, and other reported issues. `scale`
runs the command on all 70,000 images of MNIST and reports its time.
"""

import csv
import dataclasses
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from results import record

from tfx_finetune.data.__main__ import DataOptions, audit_data
from tfx_finetune.datasets.samples.tux_stamps import tux_stamps
from tfx_finetune.datasets.sources.idx import idx

EACH = 50
DIGITS, WRONG = 10_000, 0.05
Rows = list[dict[str, str]]


def main() -> None:
    """Run the benchmark."""
    parts = {"stamps": stamps, "digits": digits, "scale": scale}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


def stamps(folder: Path) -> None:
    """Plant duplicates, leakage, four kinds of near-duplicates and broken files among the stamps."""
    rng = np.random.default_rng(0)
    originals = tux_stamps().parts["all"]["image"]
    rows = [(folder / f"{at:04}.png", "test" if at % 4 == 0 else "train", path) for at, path in enumerate(originals)]
    for path, _, original in rows:
        shutil.copy(original, path)
    order = iter(rng.permutation(len(rows)).tolist())
    planted: dict[str, dict[str, str]] = {}
    table = [(path.name, split) for path, split, _ in rows]
    for kind, change in CHANGES.items():
        planted[kind] = {}
        for _ in range(EACH):
            path, split, _ = rows[next(order)]
            made = change(path, rng)
            planted[kind][made.name] = path.name
            table.append((made.name, {"train": "test", "test": "train"}[split] if kind == "leak" else split))
    labels = dict(zip((path.name for path, _, _ in rows), tux_stamps().parts["all"]["label"], strict=True))
    origin = {made: path for pairs in planted.values() for made, path in pairs.items()}
    lines = [f"{name},{labels[origin.get(name, name)]},{split}" for name, split in table]
    (folder / "stamps.csv").write_text("\n".join(["path,label,split", *lines]))
    found = examined(folder, str(folder / "stamps.csv"), backbone="")
    pairs = {frozenset((Path(row["file"]).name, Path(row["other_file"]).name)): row["kind"] for row in found}
    expected = {"copy": {"duplicate"}, "leak": {"leakage"}}
    text = ["| planted issue | count | recall |", "|---|---|---|"]
    for kind, copies in planted.items():
        if kind == "broken":
            listed = {Path(row["file"]).name for row in found if row["kind"] == "unreadable"}
            count = len(listed & set(copies))
        else:
            count = sum(pairs.get(frozenset(pair)) in expected.get(kind, {"near_duplicate"}) for pair in copies.items())
        text.append(f"| {kind} | {len(copies)} | {count / len(copies):.0%} |")
    right = sum(frozenset(pair) in pairs for kind in planted for pair in planted[kind].items() if kind != "broken")
    # Of one picture and its copies all pairs are right, those that were not planted as such too.
    others = [pair for pair in pairs if len({origin.get(name, name) for name in pair}) == 2 and "" not in pair]
    text.append(
        f"\n{len(rows)} stamps, {EACH} planted issues of each kind. Other reported pairs: {len(others)} (precision "
        f"{right / (right + len(others)):.0%}), such as letters and coins that differ in a detail."
    )
    record("data_care stamps", "Planted duplicates and broken files, Tux Paint's stamps", "\n".join(text))


def digits(folder: Path) -> None:
    """Plant label errors among the training images of MNIST."""
    rng = np.random.default_rng(0)
    part = idx(package="mnist", limit=DIGITS).parts["train"]
    truth = np.array(part["label"], int)
    wrong = rng.permutation(DIGITS)[: int(WRONG * DIGITS)]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + rng.integers(1, 10, len(wrong))) % 10
    for number, pixels in enumerate(part["image"]):
        Image.fromarray(pixels[..., 0]).save(folder / f"{number}.png")
    lines = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (folder / "digits.csv").write_text("\n".join(["path,label", *lines]))
    found = [row for row in examined(folder, str(folder / "digits.csv")) if row["kind"] == "label_error"]
    at = np.array([int(Path(row["file"]).stem) for row in found])
    hits = np.isin(at, wrong)
    right = np.cumsum(hits)
    precise = right / np.arange(1, len(hits) + 1) >= 0.5
    better = np.mean([int(row["detail"]) == truth[int(Path(row["file"]).stem)] for row in np.array(found)[hits]])
    text = [
        "| reported | recall | precision | recall at precision 0.5 | predicted class correct |",
        "|---|---|---|---|---|",
        f"| {len(found)} | {hits.sum() / len(wrong):.1%} | {hits.mean():.1%} | "
        f"{right[precise].max() / len(wrong):.1%} | {better:.1%} |",
        f"\n{DIGITS:,} training images of MNIST, {len(wrong)} labels changed at random, the default backbone.",
    ]
    record("data_care digits", "Planted label errors, MNIST", "\n".join(text))


def scale(folder: Path) -> None:
    """Measure time and memory of the command on all of MNIST."""
    started = time.time()
    command = [sys.executable, "-m", "tfx_finetune.data", "--data=idx(package='mnist')", f"--workdir={folder}"]
    subprocess.run([*command, f"--cache.dir={folder / 'cache'}"], check=True)
    seconds = time.time() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6
    with (folder / "issues.csv").open(newline="") as file:
        kinds = Counter(row["kind"] for row in csv.DictReader(file))
    named = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    took = f"{seconds:,.0f} s, {spent:,.0f} s of all cores together, {memory:.1f} GB"
    text = f"70,000 pictures, the default backbone, nothing kept: {took}. Found: {named}."
    record("data_care scale", "The command `data` on all of MNIST", text)


def examined(folder: Path, data: str, **options: Any) -> Rows:
    """Return the issues that the command finds."""
    out = audit_data(dataclasses.replace(DataOptions(data=data, workdir=str(folder / "out")), **options))
    with (out / "issues.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def flat(path: Path) -> Image.Image:
    """Return a stamp on a white background."""
    stamp = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", stamp.size, "white")
    white.alpha_composite(stamp)
    return white.convert("RGB")


def copy(path: Path, rng: np.random.Generator) -> Path:
    """Write the same file under another name."""
    return Path(shutil.copy(path, path.with_name(f"copy{path.name}")))


def leak(path: Path, rng: np.random.Generator) -> Path:
    """Write the same file for another split."""
    return Path(shutil.copy(path, path.with_name(f"leak{path.name}")))


def resized(path: Path, rng: np.random.Generator) -> Path:
    """Resize to 0.4 to 0.9 of the size."""
    picture, factor = flat(path), rng.uniform(0.4, 0.9)
    made = path.with_name(f"resized{path.name}")
    picture.resize((max(8, int(picture.width * factor)), max(8, int(picture.height * factor)))).save(made)
    return made


def compressed(path: Path, rng: np.random.Generator) -> Path:
    """Save as JPEG with quality 30 to 80."""
    made = path.with_name(f"jpeg{path.stem}.jpg")
    flat(path).save(made, quality=int(rng.integers(30, 80)))
    return made


def cropped(path: Path, rng: np.random.Generator) -> Path:
    """Crop up to a twentieth at each side."""
    picture, cut = flat(path), rng.uniform(0, 0.05, 4)
    made = path.with_name(f"cropped{path.name}")
    left, top, right, bottom = cut * np.tile(picture.size, 2)
    picture.crop((int(left), int(top), int(picture.width - right), int(picture.height - bottom))).save(made)
    return made


def brighter(path: Path, rng: np.random.Generator) -> Path:
    """Multiply the brightness by 0.7 to 0.9 or 1.1 to 1.3."""
    made = path.with_name(f"brighter{path.name}")
    factor = rng.uniform(0.1, 0.3)
    ImageEnhance.Brightness(flat(path)).enhance(1 + factor * rng.choice([-1, 1])).save(made)
    return made


def broken(path: Path, rng: np.random.Generator) -> Path:
    """Truncate the file, empty it, or replace it by noise."""
    whole = path.read_bytes()
    made = path.with_name(f"broken{path.name}")
    made.write_bytes([whole[: len(whole) // 2], b"", rng.bytes(500)][int(rng.integers(3))])
    return made


CHANGES = {
    "copy": copy,
    "leak": leak,
    "broken": broken,
    "resized": resized,
    "compressed": compressed,
    "cropped": cropped,
    "brighter": brighter,
}


if __name__ == "__main__":
    main()
