"""Sampling of the training samples of an epoch, augmentation of batches, and modality dropout."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.tf_data import parallel_map, without_autograph
from tfx_finetune.types.components import MODALITY_MASK, BatchAugment


@dataclass(frozen=True, eq=False)
class EpochSampler:
    """Sampler of training epochs; an epoch depends on the seed and its number only, so that training can resume.

    Attributes:
        seed: Seed of the run.
        batch_augments: Augments of whole batches, such as mixup().
        weights: float array (n,), sum 1. Probability of each training sample to be drawn, with replacement. None: every
            sample once per epoch.
        modality_dropout: float, 0 to 1. Probability of leaving out a tower's input in a sample of several towers.
        num_samples: int >= 0. Number of samples of an epoch if `weights` are given. 0: as many as training samples.

    Examples:
        >>> EpochSampler(0).compute_epoch_length(100)
        100
        >>> EpochSampler(0, weights=np.full(100, 0.01), num_samples=250).compute_epoch_length(100)
        250
    """

    seed: int
    batch_augments: tuple[BatchAugment, ...] = ()
    weights: np.ndarray | None = None
    modality_dropout: float = 0.0
    num_samples: int = 0

    def compute_epoch_length(self, count: int) -> int:
        """Return the number of samples of an epoch.

        Args:
            count: Number of training samples.
        """
        return self.num_samples if self.num_samples and self.weights is not None else count

    def draw_sample_indices(self, count: int, epoch: tf.Tensor) -> tf.Tensor:
        """Draw the indices of the training samples of an epoch, int32 (compute_epoch_length(count),)."""
        seed = self._make_epoch_seed(epoch)
        if self.weights is None:
            return tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        log_weights = tf.math.log(tf.constant(self.weights))[None]
        return tf.random.stateless_categorical(log_weights, self.compute_epoch_length(count), seed, tf.int32)[0]

    def repeat_samples(self, samples: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Repeat each (index, sample) as often as it is drawn in an epoch, unshuffled.

        Copies of a sample get different indices, so that they are augmented differently.
        """
        if self.weights is None:
            return samples
        count = len(self.weights)
        repeats = tf.math.bincount(
            self.draw_sample_indices(count, epoch), minlength=count, maxlength=count, dtype=tf.int64
        )

        @without_autograph
        def make_copies(position: tf.Tensor, indexed_sample: tuple[tf.Tensor, Any]) -> tf.data.Dataset:
            index, sample = indexed_sample
            return tf.data.Dataset.range(repeats[position]).map(lambda copy: (index + copy * 2**32, sample))

        return parallel_map(samples, lambda *indexed_sample: indexed_sample).enumerate().flat_map(make_copies)

    def augment_batches(self, batches: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Apply the batch augments to models of one input, or modality dropout to models of several inputs.

        Args:
            batches: Batches of (inputs, targets, weights).
            epoch: int64 scalar.
        """
        if not self.batch_augments and not self.modality_dropout:
            return batches

        def apply(number: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = batch
            seed = tf.random.experimental.stateless_fold_in(self._make_epoch_seed(epoch), number)
            if MODALITY_MASK in inputs:
                return inputs | {MODALITY_MASK: self._drop_modalities(inputs[MODALITY_MASK], seed)}, targets, weights
            ((name, x),) = inputs.items()
            if x.dtype.is_integer and x.dtype != tf.uint8:
                raise UserError("Tokens cannot be mixed", got=name, hint="leave mixup() and cutmix() out")
            for position, augment in enumerate(self.batch_augments):
                augment_seed = tf.random.experimental.stateless_fold_in(seed, position)
                x, targets, weights = augment.apply(x, targets, weights, augment_seed)
            return {name: x}, targets, weights

        return parallel_map(batches.enumerate(), apply)

    def _drop_modalities(self, modality_mask: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Drop modalities at random, but never all of a sample (ModDrop, Neverova et al., arXiv 1501.00102)."""
        random = tf.random.stateless_uniform(tf.shape(modality_mask), seed)
        dropped_mask = modality_mask * tf.cast(random >= self.modality_dropout, modality_mask.dtype)
        return tf.where(tf.reduce_any(dropped_mask > 0, axis=1, keepdims=True), dropped_mask, modality_mask)

    def _make_epoch_seed(self, epoch: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.cast(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
