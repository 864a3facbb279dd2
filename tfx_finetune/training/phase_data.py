"""What the trained part of a network sees in a phase: the kept outputs of its frozen trunk, or prepared samples."""

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
from tfx_finetune.models.build import split_model
from tfx_finetune.models.freezing import count_unfrozen_groups_per_tower
from tfx_finetune.models.network import Network
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
    """Samples of a phase.

    Attributes:
        data: The samples themselves.
        context: Settings of the run.
        train: What the trained part sees of the training samples; None where that is new in every epoch, as augmented
            samples are where there is no trunk.
        val: What the trained part sees of the validation samples; None where there are none.
        company: Who stands beside training samples, for the run's objectives; None without one.
    """

    data: Data
    context: TrainingContext
    train: FeatureStore | None
    val: FeatureStore | None
    pair_sampler: PairSampler | None = None

    def training_batches(self, first_epoch: int, end_epoch: int) -> tf.data.Dataset:
        """Training batches (inputs, targets by output, weights by output) of the epochs `first` to `last - 1`."""
        if self.train and self.pair_sampler:
            numbered = dataclasses.replace(
                self.train, targets=self.train.targets | {SAMPLE_INDEX: np.arange(len(self.train))}
            )
            batches = numbered.training_batches(first_epoch, end_epoch, self.data.batch_size, self.data.sampler)
            batches = self.pair_sampler.append_positives(batches, first_epoch, self.data.steps)
        elif self.train:
            batches = self.train.training_batches(first_epoch, end_epoch, self.data.batch_size, self.data.sampler)
        else:
            batches = self.data.make_epoch_batches("train", first_epoch, end_epoch)
            if self.context.teachers:
                batches = distillation.add_teacher_targets(
                    batches, self.data, self.context.teachers, first_epoch, end_epoch
                )

        def by_output(inputs: dict, targets: dict, weights: dict) -> tuple[dict, dict, dict]:
            # A sample weighs as much in the loss of its label as in that of the teacher's answer.
            weigh = {name: weights[name if name in weights else name.split("/")[0]] for name in targets}
            return inputs, _rename_by_output(targets), _rename_by_output(weigh)

        return parallel_map(batches, by_output)

    def sample_train_batch(self, count: int) -> tuple[Batch, Batch]:
        """Inputs of the trained part and targets of up to `count` training samples, evenly spaced, not augmented."""
        if not self.train:
            return self.data.prepare_samples(self.data.evenly_spaced_mask("train", count))
        chosen = evenly_spaced(len(self.train), count)
        return take(self.train.inputs[0], chosen), take(self.train.targets, chosen)


def prepare_phase_data(
    trunks: Mapping[str, keras.Model], phase: Phase, data: Data, context: TrainingContext
) -> PhaseData:
    """Computes what a phase sees of its trunks, where that is not kept yet."""
    size, folder = data.table.size, context.features_folder
    keys = {tower: _feature_cache_key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    samples = (size("train") + size(UNLABELED)) * phase.augmented_views + size("val")
    applied = {tower: make_inference_fn(trunk, samples, context.precision) for tower, trunk in trunks.items()}
    val = _validation_store(data, applied, keys, folder)
    # Company is called by the row, so that what may stand in it is kept.
    views = phase.augmented_views if trunks or context.auxiliary_losses else 1
    kept = trunks or context.auxiliary_losses or (not data.augments and _fits_on_disk(data, folder))
    train = feature_cache.get_or_compute(data, "train", views, applied, keys, folder) if kept else None
    if train and context.teachers:
        train = dataclasses.replace(train, teacher_targets=distillation.compute_teacher_probs(data, context, views))
    if not (train and context.auxiliary_losses):
        return PhaseData(data, context, train, val)
    beside = feature_cache.get_or_compute(data, UNLABELED, views, applied, keys, folder) if size(UNLABELED) else None
    return PhaseData(
        data, context, train, val, PairSampler([train, beside], data.table, context.auxiliary_losses, context.seed)
    )


def prepare_validation_data(
    trunks: Mapping[str, keras.Model], data: Data, context: TrainingContext
) -> FeatureStore | None:
    """What the trained part sees of the validation samples alone; None where there are none."""
    keys = {tower: _feature_cache_key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    count = data.table.size("val")
    applied = {tower: make_inference_fn(trunk, count, context.precision) for tower, trunk in trunks.items()}
    return _validation_store(data, applied, keys, context.features_folder)


def _validation_store(
    data: Data, inference_fns: Mapping[str, InferenceFn], keys: Mapping[str, str], folder: Path
) -> FeatureStore | None:
    return feature_cache.get_or_compute(data, "val", 1, inference_fns, keys, folder) if data.table.size("val") else None


def cache_prepared_split(data: Data, split: str, workdir: Path) -> FeatureStore:
    """The prepared samples of a split, kept in the work folder while the run lasts."""
    keys = {tower: f"prepared {tower}" for tower in data.modalities}
    return feature_cache.get_or_compute(data, split, 1, {}, keys, workdir / "features")


def precompute_features(network: Network, data: Data, context: TrainingContext) -> None:
    """Computes what all phases will see of their trunks in one pass over the samples, instead of one a phase.

    What a phase leaves frozen is now what it will be then, unless an earlier phase trains more of the tower. A phase
    that is done already sees nothing any more.
    """
    outputs: dict[str, list[Any]] = {}
    views: dict[str, dict[str, int]] = {}
    most = dict.fromkeys(network.backbones, 0)
    for name, phase in context.phases.items():
        trunks, _ = split_model(network, phase.unfreeze)
        wanted = count_unfrozen_groups_per_tower(network.backbones, phase.unfreeze)
        done = Checkpoint.for_phase(context.workdir, name).is_done
        for tower, trunk in trunks.items():
            if not done and wanted[tower] >= most[tower]:
                key, known = _feature_cache_key(tower, trunk, data, context), views.setdefault(tower, {})
                if key not in known:
                    outputs.setdefault(tower, []).append(trunk.output)
                known[key] = max(phase.augmented_views, known.get(key, 1))
        most = {tower: max(most[tower], count) for tower, count in wanted.items()}
    size, folder = data.table.size, context.features_folder
    joint = {}
    for tower, several in outputs.items():
        samples = (size("train") + size(UNLABELED)) * max(views[tower].values()) + size("val")
        model = keras.Model(network.backbones[tower].inputs, several)
        joint[tower] = make_inference_fn(model, samples, context.precision)
    if size("val"):
        once = {tower: dict.fromkeys(keys, 1) for tower, keys in views.items()}
        feature_cache.compute_features(data, "val", once, joint, folder)
    for split in filter(size, ("train", UNLABELED)):
        feature_cache.compute_features(data, split, views, joint, folder)


def _feature_cache_key(tower: str, trunk: keras.Model | None, data: Data, context: TrainingContext) -> str:
    return feature_cache.fingerprint(data, tower, trunk, dict(context.cache_keys[tower]))


def _fits_on_disk(data: Data, folder: Path) -> bool:
    """Whether prepared training samples take no more than a quarter of the disk's free space."""
    free = shutil.disk_usage(files.make_writable_folder(folder, "cache")).free
    each = sum(math.prod(m.shape) * np.dtype(m.dtype).itemsize for m in data.modalities.values())
    return 4 * data.table.size("train") * each <= free


def _rename_by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {_output_name(name): value for name, value in values.items()}


def _output_name(name: str) -> str:
    """The output that a target belongs to: a head's logits where nothing else is said."""
    return name if "/" in name else f"{name}/logits"
