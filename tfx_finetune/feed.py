"""What the trained part of a network sees in a phase: the kept outputs of its frozen trunk, or prepared samples."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from tfx_finetune import features
from tfx_finetune.core.config import Phase
from tfx_finetune.engine import engine
from tfx_finetune.features import Store
from tfx_finetune.pipeline import Data
from tfx_finetune.plan import Plan


@dataclass(frozen=True)
class Feed:
    """Samples of a phase.

    Attributes:
        data: The samples themselves.
        train: The trunk's outputs for training samples; None where there is no trunk.
        val: What the trained part sees of the validation samples; None where there are none.
    """

    data: Data
    train: Store | None
    val: Store | None

    def batches(self, first: int, last: int) -> tf.data.Dataset:
        """Training batches (inputs, targets by output, weights by output) of the epochs `first` to `last - 1`."""
        if self.train:
            batches = self.train.epochs(first, last, self.data.batch_size, self.data.order)
        else:
            batches = self.data.epochs("train", first, last)
        return batches.map(lambda x, y, w: (x, _by_output(y), _by_output(w)))


@contextlib.contextmanager
def feed(trunk: keras.Model | None, phase: Phase, data: Data, plan: Plan) -> Iterator[Feed]:
    """Computes what is not kept yet; what the run does not keep is gone when the block ends."""
    size, precision = data.table.size, plan.run.cache.precision
    apply = engine(trunk, size("train") * phase.views + size("val"), precision) if trunk else None
    key = features.fingerprint(data, trunk, plan.preparation | {"precision": precision})
    temporary = plan.workdir / "features"
    place = plan.features_folder or temporary
    try:
        val = features.collect(data, "val", 1, apply, key, place) if size("val") else None
        train = features.collect(data, "train", phase.views, apply, key, place) if trunk else None
        yield Feed(data, train, val)
    finally:
        features.forget(temporary)


def _by_output(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {f"{head}/logits": value for head, value in values.items()}
