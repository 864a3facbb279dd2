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

ISSUES_PER_KIND = 50
DIGIT_COUNT, ERROR_RATE = 10_000, 0.05
Rows = list[dict[str, str]]


def main() -> None:
    """Run the benchmark."""
    measurements = {"stamps": measure_stamps, "digits": measure_digits, "scale": measure_scale}
    for name in sys.argv[1:] or measurements:
        with tempfile.TemporaryDirectory() as folder:
            measurements[name](Path(folder))


def measure_stamps(folder: Path) -> None:
    """Plant duplicates, leakage, four kinds of near-duplicates and broken files among the stamps."""
    rng = np.random.default_rng(0)
    image_paths = tux_stamps().parts["all"]["image"]
    rows = [
        (folder / f"{index:04}.png", "test" if index % 4 == 0 else "train", path)
        for index, path in enumerate(image_paths)
    ]
    for path, _, original in rows:
        shutil.copy(original, path)
    order = iter(rng.permutation(len(rows)).tolist())
    originals_by_kind: dict[str, dict[str, str]] = {}
    splits = [(path.name, split) for path, split, _ in rows]
    for kind, modify in CHANGES.items():
        originals_by_kind[kind] = {}
        for _ in range(ISSUES_PER_KIND):
            path, split, _ = rows[next(order)]
            copy_path = modify(path, rng)
            originals_by_kind[kind][copy_path.name] = path.name
            splits.append((copy_path.name, {"train": "test", "test": "train"}[split] if kind == "leak" else split))
    labels = dict(zip((path.name for path, _, _ in rows), tux_stamps().parts["all"]["label"], strict=True))
    original_names = {
        copy_path: path for originals in originals_by_kind.values() for copy_path, path in originals.items()
    }
    lines = [f"{name},{labels[original_names.get(name, name)]},{split}" for name, split in splits]
    (folder / "stamps.csv").write_text("\n".join(["path,label,split", *lines]))
    issues = find_issues(folder, str(folder / "stamps.csv"), backbone="")
    reported_pairs = {frozenset((Path(row["file"]).name, Path(row["other_file"]).name)): row["kind"] for row in issues}
    expected = {"copy": {"duplicate"}, "leak": {"leakage"}}
    table_lines = ["| planted issue | count | recall |", "|---|---|---|"]
    for kind, copies in originals_by_kind.items():
        if kind == "broken":
            unreadable = {Path(row["file"]).name for row in issues if row["kind"] == "unreadable"}
            count = len(unreadable & set(copies))
        else:
            count = sum(
                reported_pairs.get(frozenset(pair)) in expected.get(kind, {"near_duplicate"}) for pair in copies.items()
            )
        table_lines.append(f"| {kind} | {len(copies)} | {count / len(copies):.0%} |")
    match_count = sum(
        frozenset(pair) in reported_pairs
        for kind in originals_by_kind
        for pair in originals_by_kind[kind].items()
        if kind != "broken"
    )
    # All pairs of an image and its copies are correct, also those of two copies.
    other_pairs = [
        pair
        for pair in reported_pairs
        if len({original_names.get(name, name) for name in pair}) == 2 and "" not in pair
    ]
    table_lines.append(
        f"\n{len(rows)} stamps, {ISSUES_PER_KIND} planted issues of each kind. "
        f"Other reported pairs: {len(other_pairs)} (precision "
        f"{match_count / (match_count + len(other_pairs)):.0%}), such as letters and coins that differ in a detail."
    )
    record("data_care stamps", "Planted duplicates and broken files, Tux Paint's stamps", "\n".join(table_lines))


def measure_digits(folder: Path) -> None:
    """Plant label errors among the training images of MNIST."""
    rng = np.random.default_rng(0)
    samples = idx(package="mnist", limit=DIGIT_COUNT).parts["train"]
    truth = np.array(samples["label"], int)
    error_indices = rng.permutation(DIGIT_COUNT)[: int(ERROR_RATE * DIGIT_COUNT)]
    labels = truth.copy()
    labels[error_indices] = (truth[error_indices] + rng.integers(1, 10, len(error_indices))) % 10
    for index, pixels in enumerate(samples["image"]):
        Image.fromarray(pixels[..., 0]).save(folder / f"{index}.png")
    lines = [f"{index}.png,{label}" for index, label in enumerate(labels)]
    (folder / "digits.csv").write_text("\n".join(["path,label", *lines]))
    issues = [row for row in find_issues(folder, str(folder / "digits.csv")) if row["kind"] == "label_error"]
    issue_indices = np.array([int(Path(row["file"]).stem) for row in issues])
    is_error = np.isin(issue_indices, error_indices)
    hit_counts = np.cumsum(is_error)
    is_precise = hit_counts / np.arange(1, len(is_error) + 1) >= 0.5
    correction_accuracy = np.mean(
        [int(row["detail"]) == truth[int(Path(row["file"]).stem)] for row in np.array(issues)[is_error]]
    )
    table_lines = [
        "| reported | recall | precision | recall at precision 0.5 | predicted class correct |",
        "|---|---|---|---|---|",
        f"| {len(issues)} | {is_error.sum() / len(error_indices):.1%} | {is_error.mean():.1%} | "
        f"{hit_counts[is_precise].max() / len(error_indices):.1%} | {correction_accuracy:.1%} |",
        f"\n{DIGIT_COUNT:,} training images of MNIST, {len(error_indices)} labels changed at random, "
        "the default backbone.",
    ]
    record("data_care digits", "Planted label errors, MNIST", "\n".join(table_lines))


def measure_scale(folder: Path) -> None:
    """Measure time and memory of the command on all of MNIST."""
    start = time.time()
    command = [sys.executable, "-m", "tfx_finetune.data", "--data=idx(package='mnist')", f"--workdir={folder}"]
    subprocess.run([*command, f"--cache.dir={folder / 'cache'}"], check=True)
    seconds = time.time() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds, memory_gb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6
    with (folder / "issues.csv").open(newline="") as file:
        kinds = Counter(row["kind"] for row in csv.DictReader(file))
    issue_counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    cost = f"{seconds:,.0f} s, {cpu_seconds:,.0f} s of all cores together, {memory_gb:.1f} GB"
    text = f"70,000 images, the default backbone, an empty cache: {cost}. Issues: {issue_counts}."
    record("data_care scale", "The command `data` on all of MNIST", text)


def find_issues(folder: Path, data: str, **options: Any) -> Rows:
    """Return the issues that the command finds."""
    workdir = audit_data(dataclasses.replace(DataOptions(data=data, workdir=str(folder / "out")), **options))
    with (workdir / "issues.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def flatten_stamp(path: Path) -> Image.Image:
    """Return a stamp on a white background."""
    stamp = Image.open(path).convert("RGBA")
    background = Image.new("RGBA", stamp.size, "white")
    background.alpha_composite(stamp)
    return background.convert("RGB")


def write_copy(path: Path, rng: np.random.Generator) -> Path:
    """Write the same file under another name."""
    return Path(shutil.copy(path, path.with_name(f"copy{path.name}")))


def write_leak(path: Path, rng: np.random.Generator) -> Path:
    """Write the same file for another split."""
    return Path(shutil.copy(path, path.with_name(f"leak{path.name}")))


def write_resized(path: Path, rng: np.random.Generator) -> Path:
    """Resize to 0.4 to 0.9 of the size."""
    image, factor = flatten_stamp(path), rng.uniform(0.4, 0.9)
    copy_path = path.with_name(f"resized{path.name}")
    image.resize((max(8, int(image.width * factor)), max(8, int(image.height * factor)))).save(copy_path)
    return copy_path


def write_compressed(path: Path, rng: np.random.Generator) -> Path:
    """Save as JPEG with quality 30 to 80."""
    copy_path = path.with_name(f"jpeg{path.stem}.jpg")
    flatten_stamp(path).save(copy_path, quality=int(rng.integers(30, 80)))
    return copy_path


def write_cropped(path: Path, rng: np.random.Generator) -> Path:
    """Crop up to a twentieth at each side."""
    image, margins = flatten_stamp(path), rng.uniform(0, 0.05, 4)
    copy_path = path.with_name(f"cropped{path.name}")
    left, top, right, bottom = margins * np.tile(image.size, 2)
    image.crop((int(left), int(top), int(image.width - right), int(image.height - bottom))).save(copy_path)
    return copy_path


def write_brightened(path: Path, rng: np.random.Generator) -> Path:
    """Multiply the brightness by 0.7 to 0.9 or 1.1 to 1.3."""
    copy_path = path.with_name(f"brighter{path.name}")
    factor = rng.uniform(0.1, 0.3)
    ImageEnhance.Brightness(flatten_stamp(path)).enhance(1 + factor * rng.choice([-1, 1])).save(copy_path)
    return copy_path


def write_broken(path: Path, rng: np.random.Generator) -> Path:
    """Truncate the file, empty it, or replace it by noise."""
    content = path.read_bytes()
    copy_path = path.with_name(f"broken{path.name}")
    copy_path.write_bytes([content[: len(content) // 2], b"", rng.bytes(500)][int(rng.integers(3))])
    return copy_path


CHANGES = {
    "copy": write_copy,
    "leak": write_leak,
    "broken": write_broken,
    "resized": write_resized,
    "compressed": write_compressed,
    "cropped": write_cropped,
    "brighter": write_brightened,
}


if __name__ == "__main__":
    main()
