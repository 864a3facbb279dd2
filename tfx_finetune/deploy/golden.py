"""A few raw samples with the trained model's answers, kept in the bundle, against which every file is held."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.bundle.bundle import make_preprocess
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.deployment import Servable

NUM_SAMPLES = 8
# Numbers of a sample's output from which it is not written as text.
_MAX_INLINE_VALUES = 5000
_ARRAYS_FILE = "outputs.npz"


@dataclass(frozen=True)
class GoldenSamples:
    """Raw samples with the outputs that the trained model gives for them.

    Attributes:
        raw: Encoded content of each sample by tower; empty where it lacks it.
        inputs: Prepared inputs, (n, ...).
        outputs: Decoded outputs by name, (n, ...).
    """

    raw: list[dict[str, bytes]]
    inputs: Batch
    outputs: Batch


def pick_samples(data: Data, servable: Servable, model: PredictFn) -> GoldenSamples:
    """Takes samples spread over the test split.

    Args:
        data: The samples.
        servable: What is exported.
        model: The trained model as a function: prepared inputs -> decoded outputs.
    """
    raw = data.read_raw_contents(data.evenly_spaced_mask("test", NUM_SAMPLES))
    inputs = concatenate(list(map(make_preprocess(servable.modalities), raw)))
    return GoldenSamples(raw, inputs, model(inputs))


def write_golden(golden: GoldenSamples, folder: Path) -> list[dict[str, Any]]:
    """Writes the raw samples and returns their record: [{"files": {tower: file}, "outputs": {output: values}}, ...].

    Outputs that say something of every place of a picture are in `outputs.npz` instead.
    """
    folder.mkdir(exist_ok=True)
    large = {name: values for name, values in golden.outputs.items() if values[0].size > _MAX_INLINE_VALUES}
    if large:
        np.savez_compressed(folder / _ARRAYS_FILE, **large)
    record = []
    for position, sample in enumerate(golden.raw):
        names = {}
        for tower, content in sample.items():
            if content:
                names[tower] = f"{position}.{tower}.{guess_extension(content)}"
                (folder / names[tower]).write_bytes(content)
        outputs = {name: values[position].tolist() for name, values in golden.outputs.items() if name not in large}
        record.append({"files": names, "outputs": outputs})
    return record


def read_golden(folder: Path) -> tuple[list[dict[str, bytes]], Batch]:
    """The raw samples of a finished bundle's folder golden/, by tower, and the outputs that belong to them."""
    record = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    outputs = {
        name: np.array([known["outputs"][name] for known in record], np.float32) for name in record[0]["outputs"]
    }
    if (folder / _ARRAYS_FILE).is_file():
        with np.load(folder / _ARRAYS_FILE) as kept:
            outputs |= dict(kept)
    return [
        {tower: (folder / file).read_bytes() for tower, file in known["files"].items()} for known in record
    ], outputs


def guess_extension(raw: bytes) -> str:
    """What the name of a file with this content ends in, by its first bytes; `bin` where they are none known."""
    kinds = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"Og": "ogg", b"fL": "flac"}
    if raw[:2] == b"RI":
        return "webp" if raw[8:12] == b"WEBP" else "wav"
    return kinds.get(raw[:2], "bin")
