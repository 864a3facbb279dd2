"""STATION: samples of a split -> tf.data batches of model inputs, targets and weights.

The order of the steps: read -> decode -> augment (training only) -> prepare -> encode -> batch -> prefetch.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import tensorflow as tf

from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets import localization_targets, multi_sample
from tfx_finetune.datasets.sampler import EpochSampler
from tfx_finetune.ops.arrays import concatenate, evenly_spaced
from tfx_finetune.ops.tf_data import (
    decode_or_empty,
    make_noinline_function,
    parallel_map,
    select_samples,
    with_prefetch,
    without_autograph,
)
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK, Modality, Source
from tfx_finetune.types.localization import MultiSampleAugment, RandomAccessSource, SampleAugment
from tfx_finetune.types.table import Table
from tfx_finetune.types.task import Task


@dataclass(frozen=True)
class Data:
    """A source whose samples are known to be readable, split, and turned into tensors.

    Attributes:
        source: Where the samples come from.
        table: What is in it.
        modalities: How raw content becomes model input, by tower.
        columns: The sample's column that each tower takes.
        tasks: Heads by name; they encode the targets.
        augments: For training samples, each with the modality that it changes.
        batch_size: Samples a batch.
        order: How training samples follow one another.
        head_specs: Task specs by head.
    """

    source: Source
    table: Table
    modalities: Mapping[str, Modality]
    tower_columns: Mapping[str, str]
    tasks: Mapping[str, Task]
    augments: tuple[tuple[str, SampleAugment], ...]
    batch_size: int
    sampler: EpochSampler
    head_specs: Mapping[str, Spec] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Batches of a training epoch."""
        return math.ceil(self.sampler.compute_epoch_length(self.table.size("train")) / self.batch_size)

    def make_batches(self, split: str, view: int = 0) -> tf.data.Dataset:
        """Batches of a split in the source's order: no sample is dropped, repeated or moved.

        Args:
            split: `train`, `val` or `test`.
            view: 0 is each sample itself; 1 and above are augmented views, the same at every call.

        Returns:
            A data set of (inputs by tower, targets by head, sample weights by head). Where there are several towers,
            the inputs have `PRESENCE` too.
        """
        return with_prefetch(
            parallel_map(self._select_samples(self.table.split == split), self._make_prepare_fn(view)).batch(
                self.batch_size
            )
        )

    def make_view_batches(self, split: str, views: Sequence[int], towers: Sequence[str]) -> tf.data.Dataset:
        """Batches of several views at once, each sample read and decoded once: a tuple of `batches`, one a view.

        Args:
            split: `train`, `val` or `test`.
            views: See `batches`.
            towers: Those whose inputs are wanted.
        """

        def each(index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple:
            decoded = self._decode_towers(sample, towers)
            sample = sample | localization_targets.read_annotations(self.tasks, self.source, sample, decoded)
            return tuple(self._prepare_view(view, index, sample, decoded) for view in views)

        return with_prefetch(parallel_map(self._select_samples(self.table.split == split), each).batch(self.batch_size))

    def make_epoch_batches(self, split: str, first: int, last: int) -> tf.data.Dataset:
        """Shuffled and freshly augmented batches of the epochs `first` to `last - 1`, one after the other.

        Order and augmentation of an epoch depend on the seed and the epoch alone, so training can go on anywhere.
        """
        # Shuffling comes before decoding: names are small, so the buffer may hold many samples.
        buffer = min(
            self.sampler.compute_epoch_length(self.table.size(split)), 100_000 if self.source.paths else 10_000
        )

        @without_autograph
        def one(epoch: tf.Tensor) -> tf.data.Dataset:
            # The seed of this function's graph alone. TensorFlow compares it with 0 and then the epoch, a tensor, too.
            tf.random.set_seed(self.sampler.seed + 1)
            samples = self.sampler.repeat_samples(self._select_samples(self.table.split == split), epoch)
            shuffled = samples.shuffle(buffer, seed=epoch, reshuffle_each_iteration=False)
            batches = parallel_map(shuffled, self._make_prepare_fn(epoch + 1)).batch(self.batch_size)
            return self.sampler.augment_batches(batches, epoch)

        return with_prefetch(tf.data.Dataset.range(first, last).flat_map(one))

    def evenly_spaced_mask(self, split: str, count: int) -> np.ndarray:
        """Marks up to `count` samples of a split, evenly spaced in the source's order, which often is by class."""
        rows = np.flatnonzero(self.table.split == split)
        member = np.zeros(len(self.table.split), bool)
        member[rows[evenly_spaced(len(rows), count)]] = True
        return member

    def read_raw_contents(self, mask: np.ndarray) -> list[dict[str, bytes]]:
        """Encoded content of the marked samples by tower; pixels that came decoded are encoded as PNG."""
        contents = parallel_map(
            self._select_samples(mask),
            lambda _, sample: {tower: self._read_content(sample, tower) for tower in self.tower_columns},
        )
        return [
            {tower: encode_content(content) for tower, content in sample.items()} for sample in with_prefetch(contents)
        ]

    def prepared_inputs(self, mask: np.ndarray) -> Batch:
        """Prepared inputs of the marked samples, (n, ...)."""
        return self.prepare_samples(mask)[0]

    def prepare_samples(self, mask: np.ndarray) -> tuple[Batch, Batch]:
        """Prepared inputs and targets of the marked samples, (n, ...)."""
        batches = with_prefetch(
            parallel_map(self._select_samples(mask), self._make_prepare_fn(0)).batch(self.batch_size)
        )
        inputs, targets, _ = zip(*batches.as_numpy_iterator(), strict=True)
        return concatenate(inputs), concatenate(targets)

    def representative_dataset(self, count: int) -> Batch:
        """Prepared training inputs for calibration: as many of each class, while it has any.

        Calibration takes 12 times as long a sample as the finished file. 64 samples gave the scores of 256 and of all
        498 (EfficientNet-Lite0, 13 classes, 273 held-out pictures: accuracy and log loss within 0.004).
        """
        rows = np.flatnonzero(self.table.split == "train")
        column = next(iter(self.tasks.values())).column
        turns = Counter[str]()
        order: list[tuple[int, int, int]] = []
        for row in rows[np.random.default_rng(self.sampler.seed).permutation(len(rows))]:
            label = self.table.columns[column][row]
            order.append((turns[label], len(order), row))
            turns[label] += 1
        member = np.zeros(len(self.table.split), bool)
        member[[row for _, _, row in sorted(order)[:count]]] = True
        return self.prepared_inputs(member)

    def _select_samples(self, mask: np.ndarray) -> tf.data.Dataset:
        return select_samples(self.source, mask)

    def _make_prepare_fn(self, view: int | tf.Tensor) -> Any:
        """The function from an enumerated sample to (inputs, targets, weights) of one view."""
        towers = list(self.tower_columns)

        def prepared(index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple[dict, dict, dict]:
            decoded = self._decode_towers(sample, towers)
            sample = sample | localization_targets.read_annotations(self.tasks, self.source, sample, decoded)
            return self._prepare_view(view, index, sample, decoded)

        return prepared

    def _read_content(self, sample: dict[str, tf.Tensor], tower: str) -> tf.Tensor:
        """What is to be decoded for a tower; empty where the sample lacks it."""
        column = self.tower_columns[tower]
        value = sample[column]
        if column not in self.source.paths:
            return value
        if len(self.tower_columns) == 1:
            return tf.io.read_file(value)
        return tf.cond(_is_present(value), lambda: tf.io.read_file(value), lambda: tf.constant(""))

    def _decode_towers(self, sample: dict[str, tf.Tensor], towers: Sequence[str]) -> dict[str, tf.Tensor]:
        """What towers see of a sample before it is augmented and prepared."""
        found = {}
        for tower in towers:
            modality, content = self.modalities[tower], self._read_content(sample, tower)
            there = True if len(self.tower_columns) == 1 else _is_present(sample[self.tower_columns[tower]])
            found[tower] = decode_or_empty(modality, content, there)
        return found

    def _apply_augment(
        self, augment: SampleAugment, sample: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if not isinstance(augment, MultiSampleAugment):
            return augment(sample, seed)
        rows = np.flatnonzero(self.table.split == "train")
        return multi_sample.apply_multi_sample(
            augment, sample | multi_sample.describe_mask_classes(self.tasks), seed, rows, self._read_partner_fn
        )

    @functools.cached_property
    def _read_partner_fn(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """`_partner` as one function of a graph, in which every partner of every view calls it."""
        return make_noinline_function(self._read_partner, input_signature=[tf.TensorSpec((), tf.int64)])

    def _read_partner(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """A sample by its place in the source, with what moves beside its picture, neither of them changed."""
        ((tower, modality),) = self.modalities.items()
        sample = cast(RandomAccessSource, self.source)[index]
        decoded = self._decode_towers(sample, [tower])
        return {modality.column: decoded[tower]} | localization_targets.read_annotations(
            self.tasks, self.source, sample, decoded
        )

    def _prepare_view(
        self,
        view: int | tf.Tensor,
        index: tf.Tensor,
        sample: dict[str, tf.Tensor],
        decoded_contents: dict[str, tf.Tensor],
    ) -> tuple[dict, dict, dict]:
        inputs, located_at = {}, dict[str, tf.Tensor]()
        for tower, content in decoded_contents.items():
            modality = self.modalities[tower]
            changed = sample
            if not (isinstance(view, int) and view == 0):
                seed = tf.stack([tf.cast(view, tf.int64) * 1_000_003 + self.sampler.seed, index])
                changed = sample | {modality.column: content}
                for position, (takes, augment) in enumerate(self.augments):
                    if takes == modality.column:
                        drawn = tf.random.experimental.stateless_fold_in(seed, position)
                        changed = self._apply_augment(augment, changed, drawn)
                content = changed[modality.column]
            inputs[tower] = modality.prepare(content)
            located_at |= localization_targets.encode_targets(self.tasks, changed, tf.shape(content), modality)
        if len(self.tower_columns) > 1:
            there = [_is_present(sample[column]) for column in self.tower_columns.values()]
            inputs[MODALITY_MASK] = tf.cast(tf.stack(there), tf.float32)
        targets, weights = {}, {}
        for head, task in self.tasks.items():
            target = located_at[head] if task.localization else task.encode(sample[task.column])
            if task.heads_by:
                target *= tf.cast(sample[task.heads_by] == head, tf.float32)
            # Who is not asked has no class, and weighs nothing.
            asked = tf.reduce_max(target) if task.single_label else 1.0
            targets[head], weights[head] = target, task.weight(target) * asked
        return inputs, targets, weights


def _is_present(value: tf.Tensor) -> tf.Tensor:
    """Whether a column holds something: a path, an encoded file, a text, or pixels."""
    return tf.strings.length(value) > 0 if value.dtype == tf.string else tf.constant(True)


def encode_content(content: tf.Tensor) -> bytes:
    """Content as a file has it: what came as pixels becomes a PNG."""
    return (content if content.dtype == tf.string else tf.io.encode_png(content)).numpy()
