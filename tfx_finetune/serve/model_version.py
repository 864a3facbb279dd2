"""Find and load the model version to serve, and verify it on its golden samples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.bundle.inputs import UnreadableError
from tfx_finetune.core import hardware
from tfx_finetune.core.errors import UserError
from tfx_finetune.deploy.golden import read_golden
from tfx_finetune.deploy.verify import max_abs_difference
from tfx_finetune.ops.arrays import concatenate, take
from tfx_finetune.tasks import localization
from tfx_finetune.types.aliases import Batch, PostprocessFn, PredictFn
from tfx_finetune.types.components import Modality


class VersionPath(NamedTuple):
    """Folder of a model version.

    version: int >= 0. Version number; 0 if the folder is not numbered.
    folder: Folder of the bundle.
    stamp: Modification time and inode of the manifest, which change when the bundle is replaced.
    """

    version: int
    folder: Path
    stamp: tuple[int, int]


@dataclass(frozen=True)
class ModelVersion:
    """Loaded model version.

    Attributes:
        version: int >= 0. Version number.
        modalities: Modalities, which decode and preprocess samples, by tower.
        labels: Class names of classification heads, by head.
        postprocess_fns: Postprocessing of detection and segmentation heads, by head.
        nms_inputs: dtype of each detection threshold that a request may set, by name.
        example_outputs: Outputs of one sample by name, (1, ...); they show the type and shape of each output.
        preprocess: Function from raw contents by tower to preprocessed inputs, (1, ...); see `Bundle.preprocess`.
        predict: Function from preprocessed inputs (n, ...) to outputs by name, (n, ...).
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
    """Return the bundle at a path, or the bundle with the highest number in a folder; None if there is none.

    Args:
        path: Bundle, or a folder of bundles named 1, 2, ... (the base path of TensorFlow Serving).
    """
    if stamp := _read_stamp(path):
        return VersionPath(0, path, stamp)
    numbered_folders = [folder for folder in path.glob("[0-9]*") if folder.name.isdecimal()]
    for folder in sorted(numbered_folders, key=lambda folder: -int(folder.name)):
        if stamp := _read_stamp(folder):
            return VersionPath(int(folder.name), folder, stamp)
    return None


def load_version(version_path: VersionPath, format: str, max_pixels: int, batch_size: int) -> ModelVersion:
    """Load a version and verify it on its golden samples, one by one and in a batch of maximum size.

    Args:
        version_path: Folder of the version.
        format: Format of the file to serve. Empty: the fastest verified file, see `_select_fastest`.
        max_pixels: int > 0. Larger images are rejected before they are decoded.
        batch_size: int > 0. Maximum number of samples per batch.

    Raises:
        UserError: If the bundle is incomplete, or its outputs on this machine differ from the golden outputs.
    """
    bundle = Bundle.open(version_path.folder)
    bundle = dataclasses.replace(bundle, manifest=_limit_pixels(bundle.manifest, max_pixels))
    verified = bundle.manifest["verified"]
    format = format or _select_fastest([format for format in bundle.formats if verified[format]] or bundle.formats)
    if not verified.get(format, True):
        raise UserError("The file did not pass verification", got=format, hint="Choose another --format")
    model, tolerance = bundle.load_model(format), bundle.get_tolerance(format)
    contents, golden_outputs = read_golden(bundle.path / "golden")
    try:
        samples = concatenate([bundle.preprocess(content) for content in contents])
    except UnreadableError as error:
        message = f"Cannot preprocess a golden sample of {version_path.folder}"
        raise UserError(message, got=error) from None
    # The largest batch is predicted once, so that the first requests do not wait for memory allocation.
    model.predict({name: np.resize(rows, (batch_size, *rows.shape[1:])) for name, rows in samples.items()})
    first_output = model.predict(take(samples, slice(1)))
    difference = max(
        max_abs_difference(golden_outputs, model.predict(samples)),
        max_abs_difference(take(golden_outputs, slice(1)), first_output),
    )
    if difference > tolerance:
        raise UserError(
            f"{version_path.folder}: outputs of {format} on this machine differ from the golden outputs",
            got=f"{difference:.2g}",
            expected=f"at most {tolerance}",
        )
    tasks = bundle.tasks
    return ModelVersion(
        version=version_path.version,
        modalities=bundle.modalities,
        labels={head: task.labels.names for head, task in tasks.items() if not task.localization},
        postprocess_fns={head: task.localization.postprocess_fn for head, task in tasks.items() if task.localization},
        nms_inputs=localization.collect_nms_inputs(tasks),
        example_outputs=take(golden_outputs, slice(1)),
        preprocess=bundle.preprocess,
        predict=model.predict,
    )


def _select_fastest(formats: Sequence[str]) -> str:
    """Return the format with float precision that is fastest on this machine; the first format if there is none."""
    order = ("tflite", "saved_model") if hardware.detect().engine == "litert" else ("saved_model", "keras")
    return next((format for format in order if format in formats), formats[0])


def _read_stamp(folder: Path) -> tuple[int, int] | None:
    """Return the modification time and inode of a bundle's manifest; None if there is no bundle."""
    try:
        status = (folder / "manifest.json").stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _limit_pixels(manifest: Mapping[str, Any], max_pixels: int) -> dict[str, Any]:
    """Return the manifest with a lower pixel limit of its image modalities."""
    towers = {}
    for tower, entry in manifest["towers"].items():
        options = dict(entry["options"])
        if "max_pixels" in options:
            options["max_pixels"] = min(max_pixels, options["max_pixels"])
        towers[tower] = entry | {"options": options}
    return dict(manifest) | {"towers": towers}
