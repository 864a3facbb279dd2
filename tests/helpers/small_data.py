"""Small data of every kind that the sources read, written by the tests, and what is said about bad data."""

import functools
import gzip
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tfx_finetune.core.config import Run
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import replace_options
from tfx_finetune.core.spec import Spec
from tfx_finetune.run import load_data
from tfx_finetune.run.plan import check
from tfx_finetune.types.components import MODALITIES, SPLITS, Modality, PretrainedCfg, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels


def picture(path: Path, seed: int = 0) -> Path:
    """Writes a picture of its own for each seed, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 14, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folder(root: Path, **counts: int) -> Path:
    """Writes a sub-folder for each class, with so many pictures, all different."""
    for position, (name, count) in enumerate(counts.items()):
        for number in range(count):
            picture(root / name / f"{number:02}.png", 1000 * position + number)
    return root


def sounds(root: Path, **counts: int) -> Path:
    """Writes a sub-folder for each class, with so many WAV files of a tenth of a second of noise, all different."""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            samples = np.random.default_rng(1000 * position + number).integers(-9999, 9999, 800, np.int16)
            with wave.open(str(root / name / f"{number:02}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
    return root


def idx_file(path: Path, array: np.ndarray) -> Path:
    """Writes uint8 (n, ...) in MNIST's format, gzipped where the name says so."""
    content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def idx_folder(root: Path, labels: tuple[int, ...] = (0, 1, 2, 10), ending: str = "") -> Path:
    """Writes a folder like MNIST's: pictures whose every pixel is their position, test labels the first half."""
    for part, numbers in (("train", labels * 3), ("t10k", labels[: len(labels) // 2])):
        pixels = np.arange(len(numbers), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
        idx_file(root / f"{part}-images-idx3-ubyte{ending}", pixels)
        idx_file(root / f"{part}-labels-idx1-ubyte{ending}", np.array(numbers, np.uint8))
    return root


def table(root: Path, text: str, name: str = "data.csv") -> Path:
    """Writes a table beside the pictures that it names first in each line, each of its own seed."""
    (root / name).write_text(text)
    for seed, line in enumerate(text.splitlines()[1:]):
        if not (path := root / line.partition(",")[0]).exists():
            picture(path, seed)
    return root / name


class Loaded(NamedTuple):
    """Source, table and classes of a run."""

    source: Source
    table: Table
    labels: dict[str, ClassLabels]


def load(data: Path, **options: object) -> Loaded:
    """Surveys and splits the data of a run with these options; a double underscore stands for the dot."""
    given = {name.replace("__", "."): value for name, value in options.items()}
    plan = check(replace_options(Run(data=str(data)), given))
    data = load_data.load_train_data(plan, {"image": modality(plan.run.image.max_pixels)})
    return Loaded(data.source, data.table, {head: task.labels for head, task in data.tasks.items()})


@functools.cache
def modality(max_pixels: int = 100_000_000) -> Modality:
    """The image modality; the same object at every call, so that its graph is built once for all tests."""
    return MODALITIES.build(Spec("image", (), {"max_pixels": max_pixels}), PretrainedCfg(size=16))


def sizes(data: Loaded) -> dict[str, int]:
    """Samples of each split."""
    return {split: data.table.size(split) for split in SPLITS}


def complaint(work: Callable, *args: object) -> str:
    """What a person is told when `work(*args)` fails: always one line."""
    with pytest.raises(UserError) as error:
        work(*args)
    assert "\n" not in str(error.value)
    return str(error.value)
