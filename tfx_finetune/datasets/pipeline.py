"""Pipeline from the samples of a split to tf.data batches of model inputs, targets and weights.

Steps: read -> decode -> augment (training only) -> prepare -> encode targets -> batch -> prefetch.
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
    """Surveyed and split data, which makes batches.

    Attributes:
        source: Source of the samples.
        table: Samples with their splits.
        modalities: Modalities by tower, which decode and prepare the samples.
        tower_columns: Column that each tower reads.
        tasks: Heads by name, which encode the targets.
        augments: Augments of training samples in order, each with its modality.
        batch_size: int >= 1. Number of samples of a batch.
        sampler: Sampler of training epochs.
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
        """Number of batches of a training epoch."""
        return math.ceil(self.sampler.compute_epoch_length(self.table.size("train")) / self.batch_size)

    def make_batches(self, split: str, view: int = 0) -> tf.data.Dataset:
        """Return batches of all samples of a split, in the order of the source.

        Args:
            split: `train`, `val` or `test`.
            view: int >= 0. 0: samples without augmentation; 1 or more: augmented views, the same at every call.

        Returns:
            A dataset of (inputs by tower, targets by head, sample weights by head). Inputs of several towers include
            `MODALITY_MASK`.
        """
        samples = parallel_map(self._select_samples(self.table.split == split), self._make_prepare_fn(view))
        return with_prefetch(samples.batch(self.batch_size))

    def make_view_batches(self, split: str, views: Sequence[int], towers: Sequence[str]) -> tf.data.Dataset:
        """Return batches of several views; each sample is read and decoded once.

        Args:
            split: `train`, `val` or `test`.
            views: Numbers of the views; see `make_batches`.
            towers: Towers whose inputs are returned.

        Returns:
            A dataset of tuples with one batch per view.
        """

        def prepare_views(index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple:
            decoded = self._decode_towers(sample, towers)
            sample = sample | localization_targets.read_annotations(self.tasks, self.source, sample, decoded)
            return tuple(self._prepare_view(view, index, sample, decoded) for view in views)

        samples = parallel_map(self._select_samples(self.table.split == split), prepare_views)
        return with_prefetch(samples.batch(self.batch_size))

    def make_epoch_batches(self, split: str, first: int, last: int) -> tf.data.Dataset:
        """Return shuffled and augmented batches of the epochs `first` to `last - 1`, one after the other.

        Order and augmentation of an epoch depend on the seed and the epoch only, so that training can resume.
        """
        # Shuffling comes before decoding: paths are small, so that the buffer can hold many samples.
        max_buffer = 100_000 if self.source.paths else 10_000
        buffer = min(self.sampler.compute_epoch_length(self.table.size(split)), max_buffer)

        @without_autograph
        def make_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            # This sets the seed of the graph of this function only; never 0 (findings/tf-shuffle-seed-zero.sh).
            tf.random.set_seed(self.sampler.seed + 1)
            samples = self.sampler.repeat_samples(self._select_samples(self.table.split == split), epoch)
            shuffled = samples.shuffle(buffer, seed=epoch, reshuffle_each_iteration=False)
            batches = parallel_map(shuffled, self._make_prepare_fn(epoch + 1)).batch(self.batch_size)
            return self.sampler.augment_batches(batches, epoch)

        return with_prefetch(tf.data.Dataset.range(first, last).flat_map(make_epoch))

    def evenly_spaced_mask(self, split: str, count: int) -> np.ndarray:
        """Return a mask (n,) of up to `count` samples of a split, evenly spaced because sources often sort by class."""
        rows = np.flatnonzero(self.table.split == split)
        mask = np.zeros(len(self.table.split), bool)
        mask[rows[evenly_spaced(len(rows), count)]] = True
        return mask

    def read_raw_contents(self, mask: np.ndarray) -> list[dict[str, bytes]]:
        """Read the encoded content of the masked samples by tower; decoded pixels are encoded as PNG."""
        contents = parallel_map(
            self._select_samples(mask),
            lambda _, sample: {tower: self._read_content(sample, tower) for tower in self.tower_columns},
        )
        return [
            {tower: encode_content(content) for tower, content in sample.items()} for sample in with_prefetch(contents)
        ]

    def prepared_inputs(self, mask: np.ndarray) -> Batch:
        """Return the model inputs of the masked samples, (n, ...)."""
        return self.prepare_samples(mask)[0]

    def prepare_samples(self, mask: np.ndarray) -> tuple[Batch, Batch]:
        """Return the model inputs and targets of the masked samples, (n, ...)."""
        samples = parallel_map(self._select_samples(mask), self._make_prepare_fn(0))
        batches = with_prefetch(samples.batch(self.batch_size))
        inputs, targets, _ = zip(*batches.as_numpy_iterator(), strict=True)
        return concatenate(inputs), concatenate(targets)

    def representative_dataset(self, count: int) -> Batch:
        """Return model inputs of training samples for calibration, with equal numbers of samples per class if possible.

        On 273 test images of 13 classes (EfficientNet-Lite0), 64 samples gave the accuracy and log loss of 256 and of
        all 498 samples within 0.004. Calibration takes 12 times as long per sample as inference.
        """
        rows = np.flatnonzero(self.table.split == "train")
        column = next(iter(self.tasks.values())).column
        counts = Counter[str]()
        order: list[tuple[int, int, int]] = []
        for row in rows[np.random.default_rng(self.sampler.seed).permutation(len(rows))]:
            label = self.table.columns[column][row]
            order.append((counts[label], len(order), row))
            counts[label] += 1
        mask = np.zeros(len(self.table.split), bool)
        mask[[row for _, _, row in sorted(order)[:count]]] = True
        return self.prepared_inputs(mask)

    def _select_samples(self, mask: np.ndarray) -> tf.data.Dataset:
        return select_samples(self.source, mask)

    def _make_prepare_fn(self, view: int | tf.Tensor) -> Any:
        """Return a function from an enumerated sample to (inputs, targets, weights) of one view."""
        towers = list(self.tower_columns)

        def prepare(index: tf.Tensor, sample: dict[str, tf.Tensor]) -> tuple[dict, dict, dict]:
            decoded = self._decode_towers(sample, towers)
            sample = sample | localization_targets.read_annotations(self.tasks, self.source, sample, decoded)
            return self._prepare_view(view, index, sample, decoded)

        return prepare

    def _read_content(self, sample: dict[str, tf.Tensor], tower: str) -> tf.Tensor:
        """Read the raw content of a tower; empty if the sample lacks it."""
        column = self.tower_columns[tower]
        value = sample[column]
        if column not in self.source.paths:
            return value
        if len(self.tower_columns) == 1:
            return tf.io.read_file(value)
        return tf.cond(_is_present(value), lambda: tf.io.read_file(value), lambda: tf.constant(""))

    def _decode_towers(self, sample: dict[str, tf.Tensor], towers: Sequence[str]) -> dict[str, tf.Tensor]:
        """Decode the content of some towers."""
        decoded = {}
        for tower in towers:
            modality, content = self.modalities[tower], self._read_content(sample, tower)
            is_present = True if len(self.tower_columns) == 1 else _is_present(sample[self.tower_columns[tower]])
            decoded[tower] = decode_or_empty(modality, content, is_present)
        return decoded

    def _apply_augment(
        self, augment: SampleAugment, sample: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if not isinstance(augment, MultiSampleAugment):
            return augment(sample, seed)
        train_indices = np.flatnonzero(self.table.split == "train")
        sample = sample | multi_sample.describe_mask_classes(self.tasks)
        return multi_sample.apply_multi_sample(augment, sample, seed, train_indices, self._read_by_index_fn)

    @functools.cached_property
    def _read_by_index_fn(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """`_read_by_index` as one function of the graph, which all samples of all views call."""
        return make_noinline_function(self._read_by_index, input_signature=[tf.TensorSpec((), tf.int64)])

    def _read_by_index(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read and decode a sample by its index in the source, with its annotations, without augmentation."""
        ((tower, modality),) = self.modalities.items()
        sample = cast(RandomAccessSource, self.source)[index]
        decoded = self._decode_towers(sample, [tower])
        annotations = localization_targets.read_annotations(self.tasks, self.source, sample, decoded)
        return {modality.column: decoded[tower]} | annotations

    def _prepare_view(
        self,
        view: int | tf.Tensor,
        index: tf.Tensor,
        sample: dict[str, tf.Tensor],
        decoded: dict[str, tf.Tensor],
    ) -> tuple[dict, dict, dict]:
        """Augment and prepare a decoded sample; return inputs, targets and sample weights."""
        inputs, localization = {}, dict[str, tf.Tensor]()
        for tower, content in decoded.items():
            modality = self.modalities[tower]
            augmented = sample
            if not (isinstance(view, int) and view == 0):
                seed = tf.stack([tf.cast(view, tf.int64) * 1_000_003 + self.sampler.seed, index])
                augmented = sample | {modality.column: content}
                for position, (column, augment) in enumerate(self.augments):
                    if column == modality.column:
                        augment_seed = tf.random.experimental.stateless_fold_in(seed, position)
                        augmented = self._apply_augment(augment, augmented, augment_seed)
                content = augmented[modality.column]
            inputs[tower] = modality.prepare(content)
            localization |= localization_targets.encode_targets(self.tasks, augmented, tf.shape(content), modality)
        if len(self.tower_columns) > 1:
            are_present = [_is_present(sample[column]) for column in self.tower_columns.values()]
            inputs[MODALITY_MASK] = tf.cast(tf.stack(are_present), tf.float32)
        targets, weights = {}, {}
        for head, task in self.tasks.items():
            target = localization[head] if task.localization else task.encode(sample[task.column])
            if task.heads_by:
                target *= tf.cast(sample[task.heads_by] == head, tf.float32)
            # A sample without a label for this head has an all-zero target and gets the weight 0.
            has_label = tf.reduce_max(target) if task.single_label else 1.0
            targets[head], weights[head] = target, task.weight(target) * has_label
        return inputs, targets, weights


def _is_present(value: tf.Tensor) -> tf.Tensor:
    """Return True if a column has a value: a path, an encoded file, a text, or pixels."""
    return tf.strings.length(value) > 0 if value.dtype == tf.string else tf.constant(True)


def encode_content(content: tf.Tensor) -> bytes:
    """Return content as the bytes of a file; pixels are encoded as PNG."""
    return (content if content.dtype == tf.string else tf.io.encode_png(content)).numpy()
