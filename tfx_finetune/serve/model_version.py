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
from tfx_finetune.deploy.golden import read_golden
from tfx_finetune.deploy.verify import max_abs_difference
from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.tasks import localization
from tfx_finetune.types.aliases import Batch, PostprocessFn, PredictFn
from tfx_finetune.types.components import Modality


class VersionPath(NamedTuple):
    """Where a version lies; `stamp` changes when it is replaced."""

    version: int
    folder: Path
    stamp: tuple[int, int]


@dataclass(frozen=True)
class ModelVersion:
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
    postprocess_fns: Mapping[str, PostprocessFn]
    nms_inputs: Mapping[str, str]
    example_outputs: Batch
    preprocess: Callable[[Mapping[str, bytes]], Batch]
    predict: PredictFn


def find_latest_version(path: Path) -> VersionPath | None:
    """The version to be served: a bundle itself, or the highest number among folders that hold one each.

    Args:
        path: A bundle, or a folder like TensorFlow Serving's base path: 1/, 2/, ...
    """
    if stamp := _read_stamp(path):
        return VersionPath(0, path, stamp)
    numbered = [folder for folder in path.glob("[0-9]*") if folder.name.isdecimal()]
    for folder in sorted(numbered, key=lambda folder: -int(folder.name)):
        if stamp := _read_stamp(folder):
            return VersionPath(int(folder.name), folder, stamp)
    return None


def load_version(version_path: VersionPath, format: str, max_pixels: int, batch_size: int) -> ModelVersion:
    """Opens a version and has it predict its golden samples, alone and in the largest batch, which warms it up too.

    Args:
        place: Where it lies.
        format: Which of its files answers; see `_quickest`.
        max_pixels: Larger pictures are refused before they are decompressed.
        batch_size: Samples a batch at most.

    Raises:
        UserError: It is no whole bundle, or does not give its golden answers here.
    """
    bundle = Bundle.open(version_path.folder)
    verified = bundle.manifest["verified"]
    format = format or _select_fastest([format for format in bundle.formats if verified[format]] or bundle.formats)
    if not verified.get(format, True):
        raise UserError("a file that did not pass verification is not served", got=format)
    reader, tolerance = bundle.load_model(format), bundle.get_tolerance(format)
    bundle = dataclasses.replace(bundle, manifest=_limit_pixels(bundle.manifest, max_pixels))
    raw, outputs = read_golden(bundle.path / "golden")
    try:
        samples = concatenate([bundle.preprocess(content) for content in raw])
    except UnreadableError as error:
        raise UserError("a golden sample cannot be prepared", got=f"{version_path.folder} ({error})") from None
    reader.predict({name: np.resize(rows, (batch_size, *rows.shape[1:])) for name, rows in samples.items()})
    alone = reader.predict(_take_first(samples))
    apart = max(max_abs_difference(outputs, reader.predict(samples)), max_abs_difference(_take_first(outputs), alone))
    if apart > tolerance:
        received = f"{version_path.folder}, {format}: {apart:.2g} apart"
        raise UserError("a bundle that does not give its golden answers here", got=received, expected=tolerance)
    labels = {head: task.labels.names for head, task in bundle.tasks.items() if not task.localization}
    found = {head: task.localization.postprocess_fn for head, task in bundle.tasks.items() if task.localization}
    limits = localization.collect_nms_inputs(bundle.tasks)
    answers = _take_first(outputs), bundle.preprocess, reader.predict
    return ModelVersion(version_path.version, bundle.modalities, labels, found, limits, *answers)


def _select_fastest(formats: Sequence[str]) -> str:
    """The file that answers fastest with all of the trained model's precision."""
    order = ("tflite", "saved_model") if hardware.detect().engine == "litert" else ("saved_model", "keras")
    return next((format for format in order if format in formats), formats[0])


def _read_stamp(folder: Path) -> tuple[int, int] | None:
    """Tells one bundle at a place from the next; None where there is none."""
    try:
        found = (folder / "manifest.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _limit_pixels(manifest: Mapping[str, Any], max_pixels: int) -> dict[str, Any]:
    towers = {}
    for tower, known in manifest["towers"].items():
        options = dict(known["options"])
        if "max_pixels" in options:
            options["max_pixels"] = min(max_pixels, options["max_pixels"])
        towers[tower] = known | {"options": options}
    return dict(manifest) | {"towers": towers}


def _take_first(outputs: Batch) -> Batch:
    return {name: values[:1] for name, values in outputs.items()}
