"""Cache of the features of frozen towers: computed once per sample and augmented view, and found again by content."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, plugins, progress
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.ops.arrays import take
from tfx_finetune.ops.tf_data import parallel_map, with_prefetch, without_autograph
from tfx_finetune.training.engine import InferenceFn
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK
from tfx_finetune.types.plan import Plan

# A frozen part runs in inference mode, in which these have no effect. Automatic names count up within a process.
_IGNORED_CONFIG_KEYS = ("name", "trainable", "rate", "seed")
# Raised when the arrays of a store change, so that stores of an earlier version are not read.
_STORE_VERSION = 2


@dataclass(frozen=True)
class FeatureStore:
    """Memory-mapped arrays of features, targets and weights with one row per sample.

    Attributes:
        inputs: For each view, features (n, ...) by tower, and `MODALITY_MASK` (n, towers) with several towers.
        targets: Targets (n, ...) by head.
        weights: Sample weights (n,) by head.
        view_targets: For each view, the targets by head that depend on the view, such as boxes; empty if none does.
        teacher_targets: For each view, teacher probabilities (n, labels) by output name; empty without teachers.
    """

    inputs: tuple[Batch, ...]
    targets: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    view_targets: tuple[Batch, ...] = ()
    teacher_targets: tuple[Batch, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs[0].values())))

    def batches(self, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        """Yield batches (inputs, targets) of the first view in order."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield take(self.inputs[0], rows), take(self.targets, rows)

    def training_batches(
        self, first_epoch: int, end_epoch: int, batch_size: int, sampler: EpochSampler
    ) -> tf.data.Dataset:
        """Return shuffled training batches (inputs, targets, weights).

        Args:
            first_epoch: int >= 0. First epoch. Epoch e has view e modulo the number of views.
            end_epoch: int. Epoch after the last one.
            batch_size: Number of samples per batch.
            sampler: Sampler of the samples of each epoch.
        """
        views = [self._view_arrays(view) for view in range(len(self.inputs))]
        groups = views[0]
        arrays = [array for group in groups for array in group.values()]
        types = [tf.as_dtype(array.dtype) for array in arrays]

        def gather(epoch: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
            view = views[int(epoch) % len(views)]
            return [np.asarray(array[indices]) for group in view for array in group.values()]

        def make_batch(epoch: tf.Tensor, indices: tf.Tensor) -> tuple[dict, dict, dict]:
            tensors = tf.numpy_function(gather, [epoch, indices], types, stateful=False)
            for tensor, array in zip(tensors, arrays, strict=True):
                tensor.set_shape([None, *array.shape[1:]])
            remaining = iter(tensors)
            inputs, targets, weights = ({name: next(remaining) for name in group} for group in groups)
            return inputs, targets, weights

        @without_autograph
        def make_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            indices = tf.data.Dataset.from_tensor_slices(sampler.draw_sample_indices(len(self), epoch))
            batches = parallel_map(indices.batch(batch_size), lambda batch: make_batch(epoch, batch))
            return sampler.augment_batches(batches, epoch)

        return with_prefetch(tf.data.Dataset.range(first_epoch, end_epoch).flat_map(make_epoch), buffer_size=4)

    def _view_arrays(self, view: int) -> tuple[Batch, Batch, Batch]:
        """Return inputs, targets and weights of a view; the targets include those of the view and of the teachers."""
        targets = dict(self.targets)
        for view_targets in (self.view_targets, self.teacher_targets):
            if view_targets:
                targets |= view_targets[view]
        return self.inputs[view], targets, self.weights


def get_or_compute(
    data: Data, split: str, num_views: int, trunks: Mapping[str, InferenceFn], keys: Mapping[str, str], folder: Path
) -> FeatureStore:
    """Return the features of a split from the cache; features that are not cached are computed first.

    Args:
        data: Samples of all splits.
        split: Name of the split, such as `train`.
        num_views: int >= 1. Number of augmented views per sample; 1 is the sample without augmentation.
        trunks: Inference function of the frozen part, by tower. Towers without one keep their preprocessed inputs.
        keys: Digest of everything that determines the features except split and view, by tower; see `fingerprint`.
        folder: Folder of the cache.
    """
    compute_features(data, split, {tower: {key: num_views} for tower, key in keys.items()}, trunks, folder)
    views: list[dict[str, Batch]] = []
    for view in range(num_views):
        arrays_by_tower = {}
        for tower, key in keys.items():
            path = cache_path(folder, key, split, view)
            path.touch()
            arrays_by_tower[tower] = {file.stem: np.load(file, mmap_mode="r") for file in path.glob("*.npy")}
        views.append(arrays_by_tower)
    inputs = tuple({tower: arrays["input"] for tower, arrays in view.items()} for view in views)
    if len(keys) > 1:
        modality_mask = np.stack([arrays["modality_mask"] for arrays in views[0].values()], 1)
        inputs = tuple(view | {MODALITY_MASK: modality_mask} for view in inputs)
    heads, view_arrays = dict(enumerate(data.tasks)), [next(iter(view.values())) for view in views]
    localized = {position: head for position, head in heads.items() if data.tasks[head].localization}
    view_targets = tuple(
        {head: arrays[f"target_{position}"] for position, head in localized.items()} for arrays in view_arrays
    )
    return FeatureStore(
        inputs,
        {head: view_arrays[0][f"target_{position}"] for position, head in heads.items()},
        {head: view_arrays[0][f"weight_{position}"] for position, head in heads.items()},
        view_targets if localized else (),
    )


def compute_features(
    data: Data,
    split: str,
    views_by_key: Mapping[str, Mapping[str, int]],
    trunks: Mapping[str, InferenceFn],
    folder: Path,
) -> None:
    """Compute the features of a split that are not cached, in one pass over its samples.

    Args:
        data: Samples of all splits.
        split: Name of the split, such as `train`.
        views_by_key: Number of augmented views, by tower and by the key of each output of its frozen part.
        trunks: Inference function of the frozen part, by tower. Towers without one keep their preprocessed inputs.
        folder: Folder of the cache.
    """
    paths = {
        (tower, output, view): cache_path(folder, key, split, view)
        for tower, keys in views_by_key.items()
        for output, (key, num_views) in enumerate(keys.items())
        for view in range(num_views)
    }
    missing = {item: path for item, path in paths.items() if not path.is_dir()}
    if not missing:
        return
    towers = list(dict.fromkeys(tower for tower, _, _ in missing))
    count, views = data.table.size(split), sorted({view for _, _, view in missing})
    title = f"{split}, {len(views)} views" if len(views) > 1 else split
    with contextlib.ExitStack() as stack, progress.bar(title, count) as advance:
        writers = {
            item: _Writer(stack.enter_context(files.write_atomically(path)), count) for item, path in missing.items()
        }
        for writer in writers.values():
            stack.callback(writer.close)
        for batch in data.make_view_batches(split, views, towers).as_numpy_iterator():
            for view, (inputs, targets, weights) in zip(views, batch, strict=True):
                arrays = {f"target_{i}": value for i, value in enumerate(targets.values())}
                arrays |= {f"weight_{i}": value for i, value in enumerate(weights.values())}
                for tower in towers:
                    if MODALITY_MASK in inputs:
                        position = list(data.tower_columns).index(tower)
                        arrays["modality_mask"] = inputs[MODALITY_MASK][:, position]
                    outputs = trunks[tower](inputs[tower]) if tower in trunks else inputs[tower]
                    for index, output in enumerate(outputs if isinstance(outputs, list) else [outputs]):
                        if (tower, index, view) in writers:
                            writers[tower, index, view].write(arrays | {"input": output})
            advance(len(inputs[towers[0]]), f"{count} samples")


def fingerprint(data: Data, tower: str, trunk: keras.Model | None, settings: dict[str, Any]) -> str:
    """Return the digest of everything that determines the features of a tower except split and view.

    Args:
        data: Samples of all splits, with the digests of their content.
        tower: Name of the tower.
        trunk: Frozen part of the tower, whose layers and weights are digested, or None for preprocessed inputs.
        settings: Settings of preprocessing; see `feature_cache_key`.
    """
    digest = hashlib.sha256(json.dumps([_STORE_VERSION, settings], sort_keys=True, default=str).encode())
    annotations = [data.table.digests[task.column] for task in data.tasks.values() if task.localization]
    for column in (data.table.digests[tower], data.table.split, *data.table.columns.values(), *annotations):
        digest.update("\n".join(column).encode())
    if trunk is not None:
        for layer in trunk.layers:
            config = {name: value for name, value in layer.get_config().items() if name not in _IGNORED_CONFIG_KEYS}
            digest.update(json.dumps([type(layer).__name__, config], sort_keys=True, default=str).encode())
        for weight in trunk.weights:
            digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def evict(folder: Path, max_bytes: int, used_since: float) -> None:
    """Delete the least recently used stores until the cache has at most `max_bytes`.

    Args:
        folder: Folder of the cache.
        max_bytes: int >= 0. Size limit in bytes; 0 for no limit.
        used_since: Unix time in seconds. Stores that were used since then stay, because the current run needs them.
    """
    files.remove_stale_parts(folder, seconds=86_400)  # younger parts may belong to another run that is writing them
    # Another run may delete stores at the same time.
    with contextlib.suppress(FileNotFoundError):
        stores = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime)
        total = sum(map(files.compute_size, stores))
        for path in stores:
            if not max_bytes or total <= max_bytes or path.stat().st_mtime >= used_since:
                break
            total -= files.compute_size(path)
            delete_store(path)


def delete_store(folder: Path) -> None:
    """Delete a folder of features."""
    shutil.rmtree(folder, ignore_errors=True)


def cache_path(folder: Path, *key: object) -> Path:
    """Return the path of the store with a key.

    Args:
        folder: Folder of the cache.
        key: Parts of the key, such as digest, split and view.
    """
    return folder / hashlib.sha256("/".join(map(str, key)).encode()).hexdigest()[:32]


class _Writer:
    """Writer of a folder of .npy files that appends batches of rows.

    Args:
        folder: Folder to create.
        count: Number of rows of each array.
    """

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        self.folder, self.count = folder, count
        self.streams: dict[str, BinaryIO] = {}

    def write(self, rows: Mapping[str, np.ndarray]) -> None:
        """Append rows (batch, ...) to the array of each name."""
        for name, value in rows.items():
            if name not in self.streams:
                self.streams[name] = (self.folder / f"{name}.npy").open("wb")
                shape = (self.count, *value.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(self.streams[name], header)
            # On a full disk, writing to a file raises an error; writing to a memory-mapped page kills the process.
            self.streams[name].write(np.ascontiguousarray(value).data)

    def close(self) -> None:
        """Close all files."""
        for stream in self.streams.values():
            stream.close()


def preprocessing_key(plan: Plan, tower: str) -> dict[str, object]:
    """Return the settings that determine the inputs of a tower and the targets, except the content of the samples."""
    run, modality = plan.run, plan.modalities[tower]
    heads = {head: str(spec) for head, spec in plan.heads.items()}
    # The random numbers of an augmentation depend on its position among all augmentations.
    augments = {i: spec for i, (spec, (takes, _)) in enumerate(plan.augments.items()) if takes == modality}
    settings = {modality: run.modality_options(modality), "augment": augments, "seed": run.seed, "heads": heads}
    if plan.heads_by:
        settings["heads_by"] = plan.heads_by
    if run.plugins:
        settings["plugins"] = plugins.compute_digests(run.plugins)
    return settings


def feature_cache_key(plan: Plan, tower: str) -> dict[str, object]:
    """Return the settings that determine the features of a frozen tower, except samples, graph and weights."""
    # The backbone spec belongs to the key because the same graph may get different tokens.
    return preprocessing_key(plan, tower) | {
        "backbone": str(plan.towers[tower]),
        "precision": plan.run.cache.precision,
    }
