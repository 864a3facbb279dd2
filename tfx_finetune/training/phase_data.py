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
from tfx_finetune.models.build import cut
from tfx_finetune.models.freezing import counts
from tfx_finetune.models.network import Network
from tfx_finetune.ops.arrays import evenly, rows
from tfx_finetune.ops.tf_data import mapped
from tfx_finetune.training import distillation, feature_cache
from tfx_finetune.training.checkpoint import Checkpoint
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.engine import Apply, engine
from tfx_finetune.training.feature_cache import Store
from tfx_finetune.training.pair_sampler import ROW, Company
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.table import BESIDE


@dataclass(frozen=True)
class Feed:
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
    train: Store | None
    val: Store | None
    company: Company | None = None

    def batches(self, first: int, last: int) -> tf.data.Dataset:
        """Training batches (inputs, targets by output, weights by output) of the epochs `first` to `last - 1`."""
        if self.train and self.company:
            numbered = dataclasses.replace(self.train, targets=self.train.targets | {ROW: np.arange(len(self.train))})
            batches = numbered.epochs(first, last, self.data.batch_size, self.data.order)
            batches = self.company.joined(batches, first, self.data.steps)
        elif self.train:
            batches = self.train.epochs(first, last, self.data.batch_size, self.data.order)
        else:
            batches = self.data.epochs("train", first, last)
            if self.context.teachers:
                batches = distillation.beside(batches, self.data, self.context.teachers, first, last)

        def by_output(inputs: dict, targets: dict, weights: dict) -> tuple[dict, dict, dict]:
            # A sample weighs as much in the loss of its label as in that of the teacher's answer.
            weigh = {name: weights[name if name in weights else name.split("/")[0]] for name in targets}
            return inputs, _by_output(targets), _by_output(weigh)

        return mapped(batches, by_output)

    def some(self, count: int) -> tuple[Batch, Batch]:
        """Inputs of the trained part and targets of up to `count` training samples, evenly spaced, not augmented."""
        if not self.train:
            return self.data.rows(self.data.some("train", count))
        chosen = evenly(len(self.train), count)
        return rows(self.train.inputs[0], chosen), rows(self.train.targets, chosen)


def feed(trunks: Mapping[str, keras.Model], phase: Phase, data: Data, context: TrainingContext) -> Feed:
    """Computes what a phase sees of its trunks, where that is not kept yet."""
    size, folder = data.table.size, context.features_folder
    keys = {tower: _key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    samples = (size("train") + size(BESIDE)) * phase.views + size("val")
    applied = {tower: engine(trunk, samples, context.precision) for tower, trunk in trunks.items()}
    val = _validation(data, applied, keys, folder)
    # Company is called by the row, so that what may stand in it is kept.
    views = phase.views if trunks or context.objectives else 1
    kept = trunks or context.objectives or (not data.augments and _fits(data, folder))
    train = feature_cache.collect(data, "train", views, applied, keys, folder) if kept else None
    if train and context.teachers:
        train = dataclasses.replace(train, taught=distillation.answers(data, context, views))
    if not (train and context.objectives):
        return Feed(data, context, train, val)
    beside = feature_cache.collect(data, BESIDE, views, applied, keys, folder) if size(BESIDE) else None
    return Feed(data, context, train, val, Company([train, beside], data.table, context.objectives, context.seed))


def validation(trunks: Mapping[str, keras.Model], data: Data, context: TrainingContext) -> Store | None:
    """What the trained part sees of the validation samples alone; None where there are none."""
    keys = {tower: _key(tower, trunks.get(tower), data, context) for tower in data.modalities}
    count = data.table.size("val")
    applied = {tower: engine(trunk, count, context.precision) for tower, trunk in trunks.items()}
    return _validation(data, applied, keys, context.features_folder)


def _validation(data: Data, applied: Mapping[str, Apply], keys: Mapping[str, str], folder: Path) -> Store | None:
    return feature_cache.collect(data, "val", 1, applied, keys, folder) if data.table.size("val") else None


def prepared(data: Data, split: str, workdir: Path) -> Store:
    """The prepared samples of a split, kept in the work folder while the run lasts."""
    keys = {tower: f"prepared {tower}" for tower in data.modalities}
    return feature_cache.collect(data, split, 1, {}, keys, workdir / "features")


def feed_ahead(network: Network, data: Data, context: TrainingContext) -> None:
    """Computes what all phases will see of their trunks in one pass over the samples, instead of one a phase.

    What a phase leaves frozen is now what it will be then, unless an earlier phase trains more of the tower. A phase
    that is done already sees nothing any more.
    """
    outputs: dict[str, list[Any]] = {}
    views: dict[str, dict[str, int]] = {}
    most = dict.fromkeys(network.backbones, 0)
    for name, phase in context.phases.items():
        trunks, _ = cut(network, phase.unfreeze)
        wanted = counts(network.backbones, phase.unfreeze)
        done = Checkpoint.of(context.workdir, name).done
        for tower, trunk in trunks.items():
            if not done and wanted[tower] >= most[tower]:
                key, known = _key(tower, trunk, data, context), views.setdefault(tower, {})
                if key not in known:
                    outputs.setdefault(tower, []).append(trunk.output)
                known[key] = max(phase.views, known.get(key, 1))
        most = {tower: max(most[tower], count) for tower, count in wanted.items()}
    size, folder = data.table.size, context.features_folder
    joint = {}
    for tower, several in outputs.items():
        samples = (size("train") + size(BESIDE)) * max(views[tower].values()) + size("val")
        model = keras.Model(network.backbones[tower].inputs, several)
        joint[tower] = engine(model, samples, context.precision)
    if size("val"):
        once = {tower: dict.fromkeys(keys, 1) for tower, keys in views.items()}
        feature_cache.compute(data, "val", once, joint, folder)
    for split in filter(size, ("train", BESIDE)):
        feature_cache.compute(data, split, views, joint, folder)


def _key(tower: str, trunk: keras.Model | None, data: Data, context: TrainingContext) -> str:
    return feature_cache.fingerprint(data, tower, trunk, dict(context.cache_keys[tower]))


def _fits(data: Data, folder: Path) -> bool:
    """Whether prepared training samples take no more than a quarter of the disk's free space."""
    free = shutil.disk_usage(files.writable_folder(folder, "cache")).free
    each = sum(math.prod(m.shape) * np.dtype(m.dtype).itemsize for m in data.modalities.values())
    return 4 * data.table.size("train") * each <= free


def _by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {_output(name): value for name, value in values.items()}


def _output(name: str) -> str:
    """The output that a target belongs to: a head's logits where nothing else is said."""
    return name if "/" in name else f"{name}/logits"
