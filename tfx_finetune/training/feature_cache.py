"""STATION: a frozen trunk's outputs, computed once a sample and view, kept on disk, found again by content."""

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

_IGNORED_CONFIG_KEYS = ("name", "trainable", "rate", "seed")


@dataclass(frozen=True)
class FeatureStore:
    """Arrays on disk, memory-mapped, one row a sample: what goes into the top, targets and weights by head.

    Attributes:
        inputs: For each view, what each tower gives, and `PRESENCE` where there are several, (n, ...).
        targets: By head, (n, ...).
        weights: By head, (n,).
        moved: For each view, the targets that move with the picture, by head; empty where none does.
        taught: For each view, a teacher's answers, by output, (n, labels); empty without a teacher.
    """

    inputs: tuple[Batch, ...]
    targets: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    view_targets: tuple[Batch, ...] = ()
    teacher_targets: tuple[Batch, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs[0].values())))

    def batches(self, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        """Yields (inputs, targets) of the first view in order."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield take(self.inputs[0], part), take(self.targets, part)

    def training_batches(
        self, first_epoch: int, end_epoch: int, batch_size: int, sampler: EpochSampler
    ) -> tf.data.Dataset:
        """Shuffled batches of the epochs `first` to `last - 1`; epoch e takes view e modulo the number of views."""
        views = [self._view_arrays(view) for view in range(len(self.inputs))]
        kinds = views[0]
        columns = [column for kind in kinds for column in kind.values()]
        types = [tf.as_dtype(column.dtype) for column in columns]

        def gather(epoch: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
            view = views[int(epoch) % len(views)]
            return [np.asarray(column[chosen]) for kind in view for column in kind.values()]

        def batch(epoch: tf.Tensor, chosen: tf.Tensor) -> tuple[dict, dict, dict]:
            found = tf.numpy_function(gather, [epoch, chosen], types, stateful=False)
            for tensor, column in zip(found, columns, strict=True):
                tensor.set_shape([None, *column.shape[1:]])
            each = iter(found)
            inputs, targets, weights = ({name: next(each) for name in kind} for kind in kinds)
            return inputs, targets, weights

        @without_autograph
        def one(epoch: tf.Tensor) -> tf.data.Dataset:
            rows = tf.data.Dataset.from_tensor_slices(sampler.draw_sample_indices(len(self), epoch)).batch(batch_size)
            return sampler.augment_batches(parallel_map(rows, lambda chosen: batch(epoch, chosen)), epoch)

        return with_prefetch(tf.data.Dataset.range(first_epoch, end_epoch).flat_map(one), buffer_size=4)

    def _view_arrays(self, view: int) -> tuple[Batch, Batch, Batch]:
        """Inputs, targets and weights of a view; a teacher's answers, which are of a view too, are targets."""
        own = {
            name: values
            for each in (self.view_targets, self.teacher_targets)
            if each
            for name, values in each[view].items()
        }
        return self.inputs[view], self.targets | own, self.weights


def get_or_compute(
    data: Data, split: str, num_views: int, trunks: Mapping[str, InferenceFn], keys: Mapping[str, str], folder: Path
) -> FeatureStore:
    """Returns the trunks' outputs of a split, from disk if they are there, else computed and kept.

    Args:
        data: The samples.
        split: `train`, `val` or `test`.
        views: How many augmented views of each sample; 1 is the sample itself.
        trunks: Inputs (batch, ...) -> outputs (batch, ...), by tower; without one, the prepared inputs are kept.
        keys: Digest of everything that determines the outputs besides split and view, by tower; see `fingerprint`.
        folder: Where stores are kept.
    """
    compute_features(data, split, {tower: {key: num_views} for tower, key in keys.items()}, trunks, folder)
    stores: list[dict[str, Batch]] = []
    for view in range(num_views):
        stores.append({})
        for tower, key in keys.items():
            place = cache_path(folder, key, split, view)
            place.touch()
            stores[-1][tower] = {file.stem: np.load(file, mmap_mode="r") for file in place.glob("*.npy")}
    inputs = tuple({tower: kept["input"] for tower, kept in store.items()} for store in stores)
    if len(keys) > 1:
        there = np.stack([kept["present"] for kept in stores[0].values()], 1)
        inputs = tuple(view | {MODALITY_MASK: there} for view in inputs)
    heads, each = dict(enumerate(data.tasks)), [next(iter(store.values())) for store in stores]
    moving = {position: head for position, head in heads.items() if data.tasks[head].localization}
    return FeatureStore(
        inputs,
        {head: each[0][f"target_{position}"] for position, head in heads.items()},
        {head: each[0][f"weight_{position}"] for position, head in heads.items()},
        tuple({head: kept[f"target_{at}"] for at, head in moving.items()} for kept in each) if moving else (),
    )


def compute_features(
    data: Data,
    split: str,
    views_by_key: Mapping[str, Mapping[str, int]],
    trunks: Mapping[str, InferenceFn],
    folder: Path,
) -> None:
    """Computes what is not kept yet, in one pass over the samples of a split.

    Args:
        data: The samples.
        split: `train`, `val` or `test`.
        views: How many augmented views of each sample, by tower and by the key of each output of its trunk.
        trunks: Inputs (batch, ...) -> its output or outputs (batch, ...), by tower; without one, the prepared inputs
            are kept.
        folder: Where stores are kept.
    """
    wanted = {
        (tower, output, view): cache_path(folder, key, split, view)
        for tower, keys in views_by_key.items()
        for output, (key, most) in enumerate(keys.items())
        for view in range(most)
    }
    missing = {at: place for at, place in wanted.items() if not place.is_dir()}
    if not missing:
        return
    towers = list(dict.fromkeys(tower for tower, _, _ in missing))
    count, shown = data.table.size(split), sorted({view for _, _, view in missing})
    title = f"{split}, {len(shown)} views" if len(shown) > 1 else split
    with contextlib.ExitStack() as stack, progress.bar(title, count) as advance:
        writers = {
            at: _Writer(stack.enter_context(files.write_atomically(place)), count) for at, place in missing.items()
        }
        for opened in writers.values():
            stack.callback(opened.close)
        for batch in data.make_view_batches(split, shown, towers).as_numpy_iterator():
            for view, (inputs, targets, weights) in zip(shown, batch, strict=True):
                known = {f"target_{i}": value for i, value in enumerate(targets.values())}
                known |= {f"weight_{i}": value for i, value in enumerate(weights.values())}
                for tower in towers:
                    if MODALITY_MASK in inputs:
                        known["present"] = inputs[MODALITY_MASK][:, list(data.tower_columns).index(tower)]
                    outputs = trunks[tower](inputs[tower]) if tower in trunks else inputs[tower]
                    for position, output in enumerate(outputs if isinstance(outputs, list) else [outputs]):
                        if writer := writers.get((tower, position, view)):
                            writer.write(known | {"input": output})
            advance(len(inputs[towers[0]]), f"{count} samples")


def fingerprint(data: Data, tower: str, trunk: keras.Model | None, settings: dict[str, Any]) -> str:
    """Digest of what determines a trunk's outputs: samples, split, targets, preparation, graph and weights."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    located = [data.table.digests[task.column] for task in data.tasks.values() if task.localization]
    for column in (data.table.digests[tower], data.table.split, *data.table.columns.values(), *located):
        digest.update("\n".join(column).encode())
    if trunk is not None:
        for layer in trunk.layers:
            # Automatic names count up within a process and would make every key a new one; a trunk runs in inference.
            config = {name: value for name, value in layer.get_config().items() if name not in _IGNORED_CONFIG_KEYS}
            digest.update(json.dumps([type(layer).__name__, config], sort_keys=True, default=str).encode())
        for weight in trunk.weights:
            digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def evict(folder: Path, max_bytes: int, used_since: float) -> None:
    """Removes the stores that were not used for longest, until the rest has at most so many bytes.

    Args:
        folder: Where stores are kept.
        most: Bytes; 0 for no limit.
        since: Stores that were used after this time (seconds since the epoch) stay: a run needs them.
    """
    files.remove_stale_parts(folder, seconds=86_400)  # what is younger may be in the making, by another run
    # Another run may be removing some at this moment, by the same rule.
    with contextlib.suppress(FileNotFoundError):
        stores = sorted((place for place in folder.glob("[!.]*")), key=lambda place: place.stat().st_mtime)
        total = sum(map(files.compute_size, stores))
        for place in stores:
            if not max_bytes or total <= max_bytes or place.stat().st_mtime >= used_since:
                break
            total -= files.compute_size(place)
            delete_store(place)


def delete_store(folder: Path) -> None:
    """Removes a folder of stores."""
    shutil.rmtree(folder, ignore_errors=True)


def cache_path(folder: Path, *key: object) -> Path:
    """Where a folder of stores has that of a key."""
    return folder / hashlib.sha256("/".join(map(str, key)).encode()).hexdigest()[:32]


class _Writer:
    """Writes a folder of arrays, a file each, a batch of their rows at a time.

    Args:
        folder: The folder to make.
        count: How many rows there will be.
    """

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        self.folder, self.count = folder, count
        self.streams: dict[str, BinaryIO] = {}

    def write(self, rows: Mapping[str, np.ndarray]) -> None:
        """Appends rows (batch, ...) to the array of each name."""
        for name, value in rows.items():
            if name not in self.streams:
                self.streams[name] = (self.folder / f"{name}.npy").open("wb")
                shape = (self.count, *value.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(self.streams[name], header)
            # Written, not mapped: on a full disk a write is an error, a mapped page ends the process.
            self.streams[name].write(np.ascontiguousarray(value).data)

    def close(self) -> None:
        """Writes what is still in memory."""
        for stream in self.streams.values():
            stream.close()


def preprocessing_key(plan: Plan, tower: str) -> dict[str, object]:
    """Return what determines the inputs of a tower and the targets, apart from the content of the samples."""
    run, modality = plan.run, plan.modalities[tower]
    heads = {head: str(spec) for head, spec in plan.heads.items()}
    # The random numbers of an augment depend on its position among all augments.
    augments = {at: spec for at, (spec, (takes, _)) in enumerate(plan.augments.items()) if takes == modality}
    routed = {"route": plan.heads_by} if plan.heads_by else {}
    plugged = {"plugins": plugins.compute_digests(run.plugins)} if run.plugins else {}
    options = {modality: run.modality_options(modality), "augment": augments, "seed": run.seed, "heads": heads}
    return options | routed | plugged


def feature_cache_key(plan: Plan, tower: str) -> dict[str, object]:
    """Return what determines the features of a frozen tower, apart from samples, graph and weights."""
    # The same graph may take other tokens, which only the spec tells.
    return preprocessing_key(plan, tower) | {
        "backbone": str(plan.towers[tower]),
        "precision": plan.run.cache.precision,
    }
