"""STATION: a few raw samples with the trained model's answers, kept in the bundle, against which every file is held."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import Batch
from tfx_finetune.deployed import Servable
from tfx_finetune.pipeline import Data

COUNT = 8


@dataclass(frozen=True)
class Golden:
    """Raw samples with the outputs that the trained model gives for them.

    Attributes:
        raw: Encoded content of each sample.
        inputs: Prepared inputs by column, (n, ...).
        outputs: Decoded outputs by name, (n, ...).
    """

    raw: list[bytes]
    inputs: Batch
    outputs: Batch


def choose(data: Data, servable: Servable, model: Callable[[np.ndarray], Batch]) -> Golden:
    """Takes samples spread over the test split.

    Args:
        data: The samples.
        servable: What is exported.
        model: The trained model as a function; see `servable.answer`.
    """
    raw = data.raw(data.some("test", COUNT))
    ((column, decode),) = servable.decode.items()
    inputs = {column: np.stack([decode(tf.constant(content)).numpy() for content in raw])}
    return Golden(raw, inputs, model(inputs[column]))


def keep(golden: Golden, folder: Path) -> dict[str, Any]:
    """Writes the raw samples and returns the record of their outputs: {file: {output: values}}."""
    folder.mkdir(exist_ok=True)
    record = {}
    for position, raw in enumerate(golden.raw):
        name = f"{position}.{_ending(raw)}"
        (folder / name).write_bytes(raw)
        record[name] = {output: values[position].tolist() for output, values in golden.outputs.items()}
    return record


def recall(folder: Path) -> tuple[list[bytes], Batch]:
    """The raw samples of a finished bundle's folder golden/, and the outputs that belong to them."""
    record = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    names = next(iter(record.values()))
    outputs = {name: np.array([known[name] for known in record.values()], np.float32) for name in names}
    return [(folder / file).read_bytes() for file in record], outputs


def _ending(raw: bytes) -> str:
    kinds = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
    return kinds.get(raw[:2], "bin")
