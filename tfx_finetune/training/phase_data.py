"""Training and validation data of a phase: cached features with a frozen part, otherwise preprocessed samples."""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files
from tfx_finetune.core.config import Phase
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.freezing import count_unfrozen_groups_per_tower
from tfx_finetune.models.network import Network
from tfx_finetune.models.split import split_model
from tfx_finetune.ops.arrays import evenly_spaced, take
from tfx_finetune.ops.tf_data import parallel_map
from tfx_finetune.training import distillation, feature_cache
from tfx_finetune.training.checkpoint import Checkpoint
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.engine import InferenceFn, make_inference_fn
from tfx_finetune.training.feature_cache import FeatureStore
from tfx_finetune.training.pair_sampler import SAMPLE_INDEX, PairSampler
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.table import UNLABELED


@dataclass(frozen=True)
class PhaseData:
    """Training and validation data of a phase.

    Attributes:
        data: Samples of all splits.
        context: Settings of the run.
        train: Inputs of the trainable part for the training samples, or None if every epoch has new inputs: augmented
            samples without a frozen part.
        val: Inputs of the trainable part for the validation samples, or None without validation samples.
        pair_sampler: Sampler of the samples that auxiliary losses append to batches, or None without auxiliary losses.
    """

    data: Data
    context: TrainingContext
    train: FeatureStore | None
    val: FeatureStore | None
    pair_sampler: PairSampler | None = None

    def training_batches(self, first_epoch: int, end_epoch: int) -> tf.data.Dataset:
        """Return training batches (inputs, targets by output, weights by output).

        Args:
            first_epoch: int >= 0. First epoch.
            end_epoch: int. Epoch after the last one.
        """

        def by_output(inputs: dict, targets: dict, weights: dict) -> tuple[dict, dict, dict]:
            # A distillation target has the sample weight of its head.
            target_weights = {name: weights[name if name in weights else name.split("/")[0]] for name in targets}
            return inputs, _rename_by_output(targets), _rename_by_output(target_weights)

        return parallel_map(self._batches_by_head(first_epoch, end_epoch), by_output)

    def _batches_by_head(self, first_epoch: int, end_epoch: int) -> tf.data.Dataset:
        """Return training batches with targets and weights by head."""
        data = self.data
        if not self.train:
            batches = data.make_epoch_batches("train", first_epoch, end_epoch)
            if not self.context.teachers:
                return batches
            return distillation.add_teacher_targets(batches, data, self.context.teachers, first_epoch, end_epoch)
        if not self.pair_sampler:
            return self.train.training_batches(first_epoch, end_epoch, data.batch_size, data.sampler)
        targets = self.train.targets | {SAMPLE_INDEX: np.arange(len(self.train))}
        store = dataclasses.replace(self.train, targets=targets)
        batches = store.training_batches(first_epoch, end_epoch, data.batch_size, data.sampler)
        return self.pair_sampler.append_positives(batches, first_epoch, data.steps)

    def sample_train_batch(self, count: int) -> tuple[Batch, Batch]:
        """Return inputs of the trainable part and targets of evenly spaced training samples, without augmentation.

        Args:
            count: int >= 1. Maximum number of samples.
        """
        if not self.train:
            return self.data.prepare_samples(self.data.evenly_spaced_mask("train", count))
        indices = evenly_spaced(len(self.train), count)
        return take(self.train.inputs[0], indices), take(self.train.targets, indices)


def prepare_phase_data(
    trunks: Mapping[str, keras.Model], phase: Phase, data: Data, context: TrainingContext
) -> PhaseData:
    """Prepare the data of a phase; features that are not cached are computed.

    Args:
        trunks: Frozen part of each tower; towers without a frozen part are omitted.
        phase: Options of the phase.
        data: Samples of all splits.
        context: Settings of the run.
    """
    size, folder = data.table.size, context.features_folder
    keys = {tower: _feature_cache_key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    num_samples = (size("train") + size(UNLABELED)) * phase.augmented_views + size("val")
    inference_fns = {tower: make_inference_fn(trunk, num_samples, context.precision) for tower, trunk in trunks.items()}
    val = _load_validation_store(data, inference_fns, keys, folder)
    # The pair sampler reads single samples, which have to be in the cache.
    num_views = phase.augmented_views if trunks or context.auxiliary_losses else 1
    use_cache = trunks or context.auxiliary_losses or (not data.augments and _fits_on_disk(data, folder))
    train = feature_cache.get_or_compute(data, "train", num_views, inference_fns, keys, folder) if use_cache else None
    if train and context.teachers:
        train = dataclasses.replace(train, teacher_targets=distillation.compute_teacher_probs(data, context, num_views))
    if not (train and context.auxiliary_losses):
        return PhaseData(data, context, train, val)
    unlabeled = None
    if size(UNLABELED):
        unlabeled = feature_cache.get_or_compute(data, UNLABELED, num_views, inference_fns, keys, folder)
    pair_sampler = PairSampler([train, unlabeled], data.table, context.auxiliary_losses, context.seed)
    return PhaseData(data, context, train, val, pair_sampler)


def prepare_validation_data(
    trunks: Mapping[str, keras.Model], data: Data, context: TrainingContext
) -> FeatureStore | None:
    """Return the inputs of the trainable part for the validation samples; None without validation samples.

    Args:
        trunks: Frozen part of each tower; towers without a frozen part are omitted.
        data: Samples of all splits.
        context: Settings of the run.
    """
    keys = {tower: _feature_cache_key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    count = data.table.size("val")
    inference_fns = {tower: make_inference_fn(trunk, count, context.precision) for tower, trunk in trunks.items()}
    return _load_validation_store(data, inference_fns, keys, context.features_folder)


def _load_validation_store(
    data: Data, inference_fns: Mapping[str, InferenceFn], keys: Mapping[str, str], folder: Path
) -> FeatureStore | None:
    return feature_cache.get_or_compute(data, "val", 1, inference_fns, keys, folder) if data.table.size("val") else None


def cache_prepared_split(data: Data, split: str, workdir: Path) -> FeatureStore:
    """Cache the preprocessed samples of a split in the work folder for the duration of a run.

    Args:
        data: Samples of all splits.
        split: Name of the split, such as `test`.
        workdir: Work folder of the run.
    """
    keys = {tower: f"prepared {tower}" for tower in data.modalities}
    return feature_cache.get_or_compute(data, split, 1, {}, keys, workdir / "features")


def precompute_features(network: Network, data: Data, context: TrainingContext) -> None:
    """Compute the features of all phases in one pass over the samples, instead of one pass per phase.

    Phases whose frozen part is trained by an earlier phase are omitted, and so are phases that are done.

    Args:
        network: The whole model.
        data: Samples of all splits.
        context: Settings of the run, with all phases.
    """
    outputs: dict[str, list[Any]] = {}
    views_by_key: dict[str, dict[str, int]] = {}
    max_unfrozen = dict.fromkeys(network.backbones, 0)
    for name, phase in context.phases.items():
        trunks, _ = split_model(network, phase.unfreeze)
        unfrozen = count_unfrozen_groups_per_tower(network.backbones, phase.unfreeze)
        is_done = Checkpoint.for_phase(context.workdir, name).is_done
        for tower, trunk in trunks.items():
            if not is_done and unfrozen[tower] >= max_unfrozen[tower]:
                key, views = _feature_cache_key(tower, trunk, data, context), views_by_key.setdefault(tower, {})
                if key not in views:
                    outputs.setdefault(tower, []).append(trunk.output)
                views[key] = max(phase.augmented_views, views.get(key, 1))
        max_unfrozen = {tower: max(max_unfrozen[tower], count) for tower, count in unfrozen.items()}
    size, folder = data.table.size, context.features_folder
    inference_fns = {}
    for tower, tensors in outputs.items():
        num_samples = (size("train") + size(UNLABELED)) * max(views_by_key[tower].values()) + size("val")
        model = keras.Model(network.backbones[tower].inputs, tensors)
        inference_fns[tower] = make_inference_fn(model, num_samples, context.precision)
    if size("val"):
        single_view = {tower: dict.fromkeys(keys, 1) for tower, keys in views_by_key.items()}
        feature_cache.compute_features(data, "val", single_view, inference_fns, folder)
    for split in filter(size, ("train", UNLABELED)):
        feature_cache.compute_features(data, split, views_by_key, inference_fns, folder)


def _feature_cache_key(tower: str, trunk: keras.Model | None, data: Data, context: TrainingContext) -> str:
    return feature_cache.fingerprint(data, tower, trunk, dict(context.cache_keys[tower]))


def _fits_on_disk(data: Data, folder: Path) -> bool:
    """Return True if the preprocessed training samples need at most a quarter of the free disk space."""
    free_bytes = shutil.disk_usage(files.make_writable_folder(folder, "cache")).free
    bytes_per_sample = sum(math.prod(m.shape) * np.dtype(m.dtype).itemsize for m in data.modalities.values())
    return 4 * data.table.size("train") * bytes_per_sample <= free_bytes


def _rename_by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {_output_name(name): value for name, value in values.items()}


def _output_name(name: str) -> str:
    """Return the output of a target: the logits of a head if the name is that of a head."""
    return name if "/" in name else f"{name}/logits"
