"""STATION: samples of a split -> tf.data batches of model inputs, targets and weights.

The order of the steps: read -> decode -> augment (training only) -> prepare -> encode -> batch -> prefetch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import MODALITIES, SOURCES, TASKS, Augment, Card, Modality, Source, Task
from tfx_finetune.core.spec import Spec
from tfx_finetune.dataset import finished, mapped, plain
from tfx_finetune.order import Order
from tfx_finetune.plan import Plan, image_options
from tfx_finetune.sources.recognize import recognize
from tfx_finetune.survey import Table, load, opened


@dataclass(frozen=True)
class Data:
    """A source whose samples are known to be readable, split, and turned into tensors.

    Attributes:
        source: Where the samples come from.
        table: What is in it.
        modality: How its raw column becomes model input.
        tower: The name of the model's input.
        tasks: Heads by name; they encode the targets.
        augments: For training samples.
        batch_size: Samples a batch.
        order: How training samples follow one another.
    """

    source: Source
    table: Table
    modality: Modality
    tower: str
    tasks: Mapping[str, Task]
    augments: tuple[Augment, ...]
    batch_size: int
    order: Order

    def batches(self, split: str, view: int = 0) -> tf.data.Dataset:
        """Batches of a split in the source's order: no sample is dropped, repeated or moved.

        Args:
            split: `train`, `val` or `test`.
            view: 0 is each sample itself; 1 and above are augmented views, the same at every call.

        Returns:
            A data set of (inputs by tower, targets by head, sample weights by head).
        """
        return finished(mapped(self._samples(self.table.split == split), self._prepared(view)).batch(self.batch_size))

    def views(self, split: str, views: Sequence[int]) -> tf.data.Dataset:
        """Batches of several views at once, each sample read and decoded once: a tuple of `batches`, one a view."""

        def each(index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple:
            decoded = self._decoded(sample)
            return tuple(self._view(view, index, decoded) for view in views)

        return finished(mapped(self._samples(self.table.split == split), each).batch(self.batch_size))

    def epochs(self, split: str, first: int, last: int) -> tf.data.Dataset:
        """Shuffled and freshly augmented batches of the epochs `first` to `last - 1`, one after the other.

        Order and augmentation of an epoch depend on the seed and the epoch alone, so training can go on anywhere.
        """
        # Shuffling comes before decoding: names are small, so the buffer may hold many samples.
        buffer = min(self.table.size(split), 100_000 if self.source.paths else 10_000)

        @plain
        def one(epoch: tf.Tensor) -> tf.data.Dataset:
            # The seed of this function's graph alone. TensorFlow compares it with 0 and then the epoch, a tensor, too.
            tf.random.set_seed(self.order.seed + 1)
            samples = self.order.repeated(self._samples(self.table.split == split), epoch)
            shuffled = samples.shuffle(buffer, seed=epoch, reshuffle_each_iteration=False)
            batches = mapped(shuffled, self._prepared(epoch + 1)).batch(self.batch_size)
            return self.order.mixed(batches, epoch)

        return finished(tf.data.Dataset.range(first, last).flat_map(one))

    def some(self, split: str, count: int) -> np.ndarray:
        """Marks up to `count` samples of a split, evenly spaced in the source's order, which often is by class."""
        rows = np.flatnonzero(self.table.split == split)
        member = np.zeros(len(self.table.split), bool)
        member[rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]] = True
        return member

    def raw(self, member: np.ndarray) -> list[bytes]:
        """Encoded content of the marked samples; pixels that came decoded are encoded as PNG."""
        contents = mapped(self._samples(member), lambda _, sample: self._read(sample)[self.modality.column])
        return [_encoded(content) for content in finished(contents)]

    def prepared(self, member: np.ndarray) -> np.ndarray:
        """Prepared inputs of the marked samples, (n, ...)."""
        batches = finished(mapped(self._samples(member), self._prepared(0)).batch(self.batch_size))
        return np.concatenate([inputs[self.tower] for inputs, _, _ in batches.as_numpy_iterator()])

    def examples(self, count: int) -> dict[str, np.ndarray]:
        """Prepared training inputs for calibration, by column: as many of each class, while it has any.

        Calibration takes 12 times as long a sample as the finished file. 64 samples gave the scores of 256 and of all
        498 (EfficientNet-Lite0, 13 classes, 273 held-out pictures: accuracy and log loss within 0.004).
        """
        rows = np.flatnonzero(self.table.split == "train")
        column = next(iter(self.tasks.values())).column
        turns = Counter[str]()
        order: list[tuple[int, int, int]] = []
        for row in rows[np.random.default_rng(self.order.seed).permutation(len(rows))]:
            label = self.table.columns[column][row]
            order.append((turns[label], len(order), row))
            turns[label] += 1
        member = np.zeros(len(self.table.split), bool)
        member[[row for _, _, row in sorted(order)[:count]]] = True
        return {self.modality.column: self.prepared(member)}

    def _samples(self, member: np.ndarray) -> tf.data.Dataset:
        marked = tf.constant(member)
        parts = [self.source.read(part) for part in self.source.sizes]
        samples = parts[0]
        for part in parts[1:]:
            samples = samples.concatenate(part)
        # Samples of other splits are left out before their files are read.
        return samples.enumerate().filter(plain(lambda index, _: marked[index]))

    def _read(self, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return sample | {column: tf.io.read_file(sample[column]) for column in self.source.paths}

    def _prepared(self, view: int | tf.Tensor) -> Any:
        """The function from an enumerated sample to (inputs, targets, weights) of one view."""
        return lambda index, sample: self._view(view, index, self._decoded(sample))

    def _decoded(self, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        column = self.modality.column
        sample = self._read(sample)
        return sample | {column: self.modality.decode(sample[column])}

    def _view(self, view: int | tf.Tensor, index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple[dict, dict, dict]:
        if not (isinstance(view, int) and view == 0):
            seed = tf.stack([tf.cast(view, tf.int64) * 1_000_003 + self.order.seed, index])
            for position, augment in enumerate(self.augments):
                sample = augment(sample, tf.random.experimental.stateless_fold_in(seed, position))
        targets = {head: task.encode(sample[task.column]) for head, task in self.tasks.items()}
        weights = {head: task.weight(targets[head]) for head, task in self.tasks.items()}
        return {self.tower: self.modality.prepare(sample[self.modality.column])}, targets, weights


def prepare_data(plan: Plan, card: Card) -> Data:
    """Opens, surveys and splits the data of a run, and makes the tasks for its classes.

    Args:
        plan: The run.
        card: Of the backbone that the samples are prepared for.

    Raises:
        UserError: The data cannot be used as it is.
    """
    modality = MODALITIES.build(Spec("image", (), image_options(plan.run)), card)
    source, table, labels = load(plan, modality)
    tasks = {head: TASKS.build(spec, labels[head]) for head, spec in plan.heads.items()}
    run = plan.run
    order = Order(run.seed, plan.mixes, _chances(table, tasks) if run.samples.balance else None)
    augments = tuple(plan.augments.values())
    return Data(source, table, modality, plan.tower[0], tasks, augments, run.batch_size, order)


def labelled(data: str, modality: Modality, tasks: Mapping[str, Task], split: str, max_bad: float) -> Data:
    """Opens labelled data for a model that exists; every sample that is wanted stands in the split `test`.

    Args:
        data: A path or a source spec.
        modality: The model's.
        tasks: The model's heads.
        split: A part that the data comes with; empty for all of it.
        max_bad: Share of unreadable samples above which this fails.

    Raises:
        UserError: The data cannot be used, or has a label that the model does not know.
    """
    source = SOURCES.build(recognize(data))
    table = opened(source, modality, tasks, split, max_bad)
    return Data(source, table, modality, modality.column, tasks, (), 32, Order(0))


def _chances(table: Table, tasks: Mapping[str, Task]) -> np.ndarray:
    """The chance of each training sample to be drawn with which all labels, those of all heads taken together, are
    equally frequent, (n,).
    """
    train = table.split == "train"
    labels = list(zip(*(table.columns[task.column][train] for task in tasks.values()), strict=True))
    counts = Counter(labels)
    chances = np.array([1 / counts[label] for label in labels], np.float32)
    return chances / chances.sum()


def _encoded(content: tf.Tensor) -> bytes:
    return (content if content.dtype == tf.string else tf.io.encode_png(content)).numpy()
