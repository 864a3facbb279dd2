"""STATION: the version of a model that is served, and how the next one is found and tried before it takes over."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfx_finetune.bundle import Bundle
from tfx_finetune.contracts import Batch
from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError
from tfx_finetune.golden import recall
from tfx_finetune.modalities.image import reason
from tfx_finetune.verify import difference


class Place(NamedTuple):
    """Where a version lies; `stamp` changes when it is replaced."""

    version: int
    folder: Path
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Served:
    """A version that answers.

    Attributes:
        version: Its number.
        column: Name of its input.
        shape: Of a prepared input.
        labels: Class names by head.
        prepare: Raw content -> prepared input; raises `tf.errors.OpError` where it cannot be read.
        predict: Prepared inputs (n, ...) -> `<head>/scores` by name, (n, classes).
    """

    version: int
    column: str
    shape: tuple[int, ...]
    labels: Mapping[str, tuple[str, ...]]
    prepare: Callable[[bytes], np.ndarray]
    predict: Callable[[np.ndarray], Batch]


def newest(path: Path) -> Place | None:
    """The version to be served: a bundle itself, or the highest number among folders that hold one each.

    Args:
        path: A bundle, or a folder like TensorFlow Serving's base path: 1/, 2/, ...
    """
    if stamp := _stamp(path):
        return Place(0, path, stamp)
    numbered = [folder for folder in path.glob("[0-9]*") if folder.name.isdecimal()]
    for folder in sorted(numbered, key=lambda folder: -int(folder.name)):
        if stamp := _stamp(folder):
            return Place(int(folder.name), folder, stamp)
    return None


def load(place: Place, format: str, max_pixels: int, batch_size: int) -> Served:
    """Opens a version and has it predict its golden samples, alone and in the largest batch, which warms it up too.

    Args:
        place: Where it lies.
        format: Which of its files answers; see `_quickest`.
        max_pixels: Larger pictures are refused before they are decompressed.
        batch_size: Samples a batch at most.

    Raises:
        UserError: It is no whole bundle, or does not give its golden answers here.
    """
    bundle = Bundle.open(place.folder)
    verified = bundle.manifest["verified"]
    format = format or _quickest([format for format in bundle.formats if verified[format]] or bundle.formats)
    if not verified.get(format, True):
        raise UserError("a file that did not pass verification is not served", received=format)
    reader, tolerance = bundle.reader(format), bundle.export(format).tolerance
    bundle = dataclasses.replace(bundle, manifest=_limited(bundle.manifest, max_pixels))
    column = bundle.modality.column

    def predict(samples: np.ndarray) -> Batch:
        return reader.predict({column: samples})

    raw, outputs = recall(bundle.path / "golden")
    try:
        samples = np.stack([bundle.prepare(content) for content in raw])
    except tf.errors.OpError as error:
        raise UserError("a golden sample cannot be prepared", received=f"{place.folder} ({reason(error)})") from None
    predict(np.resize(samples, (batch_size, *samples.shape[1:])))
    apart = max(difference(outputs, predict(samples)), difference(_first(outputs), predict(samples[:1])))
    if apart > tolerance:
        received = f"{place.folder}, {format}: {apart:.2g} apart"
        raise UserError("a bundle that does not give its golden answers here", received=received, allowed=tolerance)
    labels = {head: task.labels.names for head, task in bundle.tasks.items()}
    return Served(place.version, column, bundle.modality.shape, labels, bundle.prepare, predict)


def _quickest(formats: Sequence[str]) -> str:
    """The file that answers fastest with all of the trained model's precision."""
    order = ("tflite", "saved_model") if hardware.detect().engine == "litert" else ("saved_model", "keras")
    return next((format for format in order if format in formats), formats[0])


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Tells one bundle at a place from the next; None where there is none."""
    try:
        found = (folder / "manifest.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _limited(manifest: Mapping[str, Any], max_pixels: int) -> dict[str, Any]:
    known = manifest["modality"]
    most = min(max_pixels, known["options"].get("max_pixels", max_pixels))
    return dict(manifest) | {"modality": known | {"options": known["options"] | {"max_pixels": most}}}


def _first(outputs: Batch) -> Batch:
    return {name: values[:1] for name, values in outputs.items()}
