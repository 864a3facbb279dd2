"""Golden samples: raw test samples with the trained model's outputs, to which every file of a bundle is compared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.bundle.inputs import make_preprocess
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.deployment import Servable

NUM_SAMPLES = 8
# Larger outputs of a sample are not written as text.
_MAX_INLINE_VALUES = 5000
_ARRAYS_FILE = "outputs.npz"


@dataclass(frozen=True)
class GoldenSamples:
    """Raw samples with the trained model's outputs.

    Attributes:
        raw: Encoded content of each sample by tower; empty for a missing input.
        inputs: Prepared inputs by name, (n, ...).
        outputs: Decoded outputs by name, (n, ...).
    """

    raw: list[dict[str, bytes]]
    inputs: Batch
    outputs: Batch


def pick_samples(data: Data, servable: Servable, model: PredictFn) -> GoldenSamples:
    """Pick evenly spaced samples of the test split.

    Args:
        data: Samples.
        servable: Input of the exports.
        model: Trained model: prepared inputs -> decoded outputs.
    """
    raw = data.read_raw_contents(data.evenly_spaced_mask("test", NUM_SAMPLES))
    inputs = concatenate(list(map(make_preprocess(servable.modalities), raw)))
    return GoldenSamples(raw, inputs, model(inputs))


def write_golden(golden: GoldenSamples, folder: Path) -> list[dict[str, Any]]:
    """Write the raw samples to a folder.

    Returns:
        The content of outputs.json: [{"files": {tower: file}, "outputs": {output: values}}, ...]. Outputs with many
        values, such as those of each pixel, are written to `outputs.npz` instead.
    """
    folder.mkdir(exist_ok=True)
    large = {name: values for name, values in golden.outputs.items() if values[0].size > _MAX_INLINE_VALUES}
    if large:
        np.savez_compressed(folder / _ARRAYS_FILE, **large)
    record = []
    for index, sample in enumerate(golden.raw):
        names = {}
        for tower, content in sample.items():
            if content:
                names[tower] = f"{index}.{tower}.{guess_extension(content)}"
                (folder / names[tower]).write_bytes(content)
        outputs = {name: values[index].tolist() for name, values in golden.outputs.items() if name not in large}
        record.append({"files": names, "outputs": outputs})
    return record


def read_golden(folder: Path) -> tuple[list[dict[str, bytes]], Batch]:
    """Read the folder golden/ of a finished bundle.

    Returns:
        The raw samples by tower, and their outputs by name.
    """
    record = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    outputs = {
        name: np.array([entry["outputs"][name] for entry in record], np.float32) for name in record[0]["outputs"]
    }
    if (folder / _ARRAYS_FILE).is_file():
        with np.load(folder / _ARRAYS_FILE) as arrays:
            outputs |= dict(arrays)
    raw = [{tower: (folder / file).read_bytes() for tower, file in entry["files"].items()} for entry in record]
    return raw, outputs


def guess_extension(raw: bytes) -> str:
    """Guess the file extension of an image or audio file from its first bytes; `bin` if they are unknown.

    Examples:
        >>> guess_extension(b"\\x89PNG\\r\\n"), guess_extension(b"hello")
        ('png', 'bin')
    """
    extensions = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"Og": "ogg", b"fL": "flac"}
    if raw[:2] == b"RI":
        return "webp" if raw[8:12] == b"WEBP" else "wav"
    return extensions.get(raw[:2], "bin")
