"""The version of a model that is served, and how the next one is found and tried before it takes over."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfx_finetune.bundle.bundle import Bundle, UnreadableError
from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError
from tfx_finetune.deploy.golden import recall
from tfx_finetune.deploy.verify import difference
from tfx_finetune.ops.arrays import joined
from tfx_finetune.tasks import localization
from tfx_finetune.types.aliases import Batch, Find, Predict
from tfx_finetune.types.components import Modality


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
        modalities: How raw content becomes its inputs, by tower.
        labels: Class names by head, of those that tell the classes of whole samples.
        found: Of heads that find things in pictures: see `Places.found`.
        limits: Of those heads: see `Places.limits`.
        golden: Outputs of one sample by name, (1, ...): what kind of values each has.
        prepare: See `Bundle.prepare`.
        predict: Prepared inputs (n, ...) -> outputs by name, (n, ...): `<head>/scores`, a score a class.
    """

    version: int
    modalities: Mapping[str, Modality]
    labels: Mapping[str, tuple[str, ...]]
    found: Mapping[str, Find]
    limits: Mapping[str, str]
    golden: Batch
    prepare: Callable[[Mapping[str, bytes]], Batch]
    predict: Predict


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
    reader, tolerance = bundle.reader(format), bundle.tolerance(format)
    bundle = dataclasses.replace(bundle, manifest=_limited(bundle.manifest, max_pixels))
    raw, outputs = recall(bundle.path / "golden")
    try:
        samples = joined([bundle.prepare(content) for content in raw])
    except UnreadableError as error:
        raise UserError("a golden sample cannot be prepared", received=f"{place.folder} ({error})") from None
    reader.predict({name: np.resize(rows, (batch_size, *rows.shape[1:])) for name, rows in samples.items()})
    alone = reader.predict(_first(samples))
    apart = max(difference(outputs, reader.predict(samples)), difference(_first(outputs), alone))
    if apart > tolerance:
        received = f"{place.folder}, {format}: {apart:.2g} apart"
        raise UserError("a bundle that does not give its golden answers here", received=received, allowed=tolerance)
    labels = {head: task.labels.names for head, task in bundle.tasks.items() if not task.places}
    found = {head: task.places.found for head, task in bundle.tasks.items() if task.places}
    limits = localization.limits(bundle.tasks)
    answers = _first(outputs), bundle.prepare, reader.predict
    return Served(place.version, bundle.modalities, labels, found, limits, *answers)


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
    towers = {}
    for tower, known in manifest["towers"].items():
        options = dict(known["options"])
        if "max_pixels" in options:
            options["max_pixels"] = min(max_pixels, options["max_pixels"])
        towers[tower] = known | {"options": options}
    return dict(manifest) | {"towers": towers}


def _first(outputs: Batch) -> Batch:
    return {name: values[:1] for name, values in outputs.items()}
