"""Writers of small data sets in several formats, and helpers that load them and return error messages."""

import csv
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
from tfx_finetune.run.plan import open_run
from tfx_finetune.types.components import MODALITIES, SPLITS, Modality, PretrainedCfg, Source
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import ClassLabels


def picture(path: Path, seed: int = 0) -> Path:
    """Write a random image that depends on the seed, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 14, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folder(root: Path, **counts: int) -> Path:
    """Write a folder with one sub-folder per class and the given number of images, all different."""
    for position, (name, count) in enumerate(counts.items()):
        for number in range(count):
            picture(root / name / f"{number:02}.png", 1000 * position + number)
    return root


def sounds(root: Path, **counts: int) -> Path:
    """Write a folder with one sub-folder per class and the given number of WAV files, 0.1 s of noise, all different."""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            samples = np.random.default_rng(1000 * position + number).integers(-9999, 9999, 800, np.int16)
            with wave.open(str(root / name / f"{number:02}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
    return root


def idx_file(path: Path, array: np.ndarray) -> Path:
    """Write uint8 (n, ...) as an IDX file, gzipped if its suffix is .gz."""
    content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def idx_folder(root: Path, labels: tuple[int, ...] = (0, 1, 2, 10), ending: str = "") -> Path:
    """Write a folder in the layout of MNIST: all pixels of an image are its index; test labels are the first half."""
    for part, numbers in (("train", labels * 3), ("t10k", labels[: len(labels) // 2])):
        pixels = np.arange(len(numbers), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
        idx_file(root / f"{part}-images-idx3-ubyte{ending}", pixels)
        idx_file(root / f"{part}-labels-idx1-ubyte{ending}", np.array(numbers, np.uint8))
    return root


def table(root: Path, text: str, name: str = "data.csv") -> Path:
    """Write a table, and a random image for the path at the beginning of each line."""
    (root / name).write_text(text)
    for seed, line in enumerate(text.splitlines()[1:]):
        if not (path := root / line.partition(",")[0]).exists():
            picture(path, seed)
    return root / name


TEXT_FLAGS = (
    "--nocache.enabled",
    "--backbone=bag_of_embeddings(size=24, dim=16)",
    "--finetune.epochs=0",
    "--frozen.unfreeze=all",
    "--frozen.learning_rate=0.03",
    "--exports=keras_file()",
)
"""Flags of a text classifier that trains in seconds."""


def write_language_table(path: Path) -> Path:
    """Write a table of texts with a label, language, group and source: 36 names of two classes in three languages.

    Texts of the language `xx` look like English texts of the other class.
    """
    words = {
        "en": ("dog cat cow horse pig goat", "red blue pink green brown gray"),
        "fi": ("koira kissa lehmä hevonen sika vuohi", "punainen sininen pinkki vihreä ruskea harmaa"),
        "xx": ("redox bluex pinkx greenx brownx grayx", "dogx catx cowx horsex pigx goatx"),
    }
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label", "language", "group", "source"])
        writer.writeheader()
        for index, label in enumerate(("animal", "colour")):
            for number in range(36):
                for language, words_by_class in words.items():
                    parts = words_by_class[index].split()
                    text, source = f"{parts[number % 6]} {parts[number // 6]}", ("web", "book")[number % 2]
                    row = {"text": text, "label": label, "language": language, "group": f"{label}{number}"}
                    writer.writerow(row | {"source": source})
    return path


class Loaded(NamedTuple):
    """Source, table and classes of a run."""

    source: Source
    table: Table
    labels: dict[str, ClassLabels]


def load(data: Path, **options: object) -> Loaded:
    """Survey and split the data of a run with some options; a double underscore stands for the dot."""
    run_options = {name.replace("__", "."): value for name, value in options.items()}
    plan, resources = open_run(replace_options(Run(data=str(data)), run_options))
    loaded = load_data.load_train_data(plan, {"image": modality(plan.run.image.max_pixels)}, resources)
    return Loaded(loaded.source, loaded.table, {head: task.labels for head, task in loaded.tasks.items()})


@functools.cache
def modality(max_pixels: int = 100_000_000) -> Modality:
    """Return the image modality, the same object at every call, so that its graph is built once for all tests."""
    return MODALITIES.build(Spec("image", (), {"max_pixels": max_pixels}), PretrainedCfg(size=16))


def sizes(data: Loaded) -> dict[str, int]:
    """Return the number of samples of each split."""
    return {split: data.table.size(split) for split in SPLITS}


def complaint(function: Callable, *args: object) -> str:
    """Return the message of the `UserError` that `function(*args)` raises; check that it is one line."""
    with pytest.raises(UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)
