"""What the trained part of a network sees in a phase: the kept outputs of its frozen trunk, or prepared samples."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from tfx_finetune import features
from tfx_finetune.checkpoint import Checkpoint
from tfx_finetune.core import files
from tfx_finetune.core.config import Phase
from tfx_finetune.dataset import mapped
from tfx_finetune.engine import engine
from tfx_finetune.features import Store
from tfx_finetune.model import Network, cut, unfrozen
from tfx_finetune.pipeline import Data
from tfx_finetune.plan import Plan


@dataclass(frozen=True)
class Feed:
    """Samples of a phase.

    Attributes:
        data: The samples themselves.
        whole: Whether the whole model is trained, which takes its input by name.
        train: What the trained part sees of the training samples; None where that is new in every epoch, as augmented
            samples are where there is no trunk.
        val: What the trained part sees of the validation samples; None where there are none.
    """

    data: Data
    whole: bool
    train: Store | None
    val: Store | None

    def batches(self, first: int, last: int) -> tf.data.Dataset:
        """Training batches (inputs, targets by output, weights by output) of the epochs `first` to `last - 1`."""
        if not self.train:
            batches = self.data.epochs("train", first, last)
            return mapped(batches, lambda x, y, w: (x, _by_output(y), _by_output(w)))
        batches = self.train.epochs(first, last, self.data.batch_size, self.data.order)
        name = self.data.tower
        return mapped(batches, lambda x, y, w: ({name: x} if self.whole else x, _by_output(y), _by_output(w)))


def feed(trunk: keras.Model | None, phase: Phase, data: Data, plan: Plan) -> Feed:
    """Computes what a phase sees of its trunk, where that is not kept yet."""
    size, key, folder = data.table.size, _key(trunk, data, plan), _folder(plan)
    apply = engine(trunk, size("train") * phase.views + size("val"), plan.run.cache.precision) if trunk else None
    val = features.collect(data, "val", 1, apply, key, folder) if size("val") else None
    views = phase.views if trunk else 1
    kept = trunk or (not data.augments and _fits(data, folder))
    train = features.collect(data, "train", views, apply, key, folder) if kept else None
    return Feed(data, trunk is None, train, val)


def feed_ahead(network: Network, data: Data, plan: Plan) -> None:
    """Computes what all phases will see of their trunks in one pass over the samples, instead of one a phase.

    What a phase leaves frozen is now what it will be then, unless an earlier phase trains more of the tower. A phase
    that is done already sees nothing any more.
    """
    trunks: dict[str, keras.Model] = {}
    views: dict[str, int] = {}
    most = 0
    for name, phase in plan.phases.items():
        count = unfrozen(network.backbone, phase.unfreeze)
        trunk, _ = cut(network, phase.unfreeze)
        if trunk and count >= most and not Checkpoint.of(plan.workdir, name).done:
            key = _key(trunk, data, plan)
            trunks[key], views[key] = trunk, max(phase.views, views.get(key, 1))
        most = max(most, count)
    if not trunks:
        return
    size, folder = data.table.size, _folder(plan)
    outputs = [trunk.output for trunk in trunks.values()]
    joint = keras.Model(network.backbone.inputs, outputs)
    apply = engine(joint, size("train") * max(views.values()) + size("val"), plan.run.cache.precision)
    if size("val"):
        features.compute(data, "val", dict.fromkeys(views, 1), apply, folder)
    features.compute(data, "train", views, apply, folder)


def _key(trunk: keras.Model | None, data: Data, plan: Plan) -> str:
    return features.fingerprint(data, trunk, plan.preparation | {"precision": plan.run.cache.precision})


def _fits(data: Data, folder: Path) -> bool:
    """Whether prepared training samples, as bytes, take no more than a quarter of the disk's free space."""
    free = shutil.disk_usage(files.writable_folder(folder, "cache")).free
    return 4 * data.table.size("train") * math.prod(data.modality.shape) <= free


def _folder(plan: Plan) -> Path:
    return plan.features_folder or plan.workdir / "features"


def _by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {f"{head}/logits": value for head, value in values.items()}
