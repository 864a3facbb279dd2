"""How training samples follow one another: shuffled or drawn anew each epoch, and mixed within a batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.tf_data import parallel_map, without_autograph
from tfx_finetune.types.components import MODALITY_MASK, BatchAugment


@dataclass(frozen=True, eq=False)
class EpochSampler:
    """The order of an epoch; it depends on the seed and the epoch alone, so that training can go on anywhere.

    Attributes:
        seed: Of the run.
        mixes: Changes of whole batches.
        dropped: Chance that what one of several towers takes is left out of a sample.
        chances: Chance of each training sample to be drawn, (n,), summing to 1; None where each comes once an epoch.
        drawn: How many are drawn in an epoch; 0 for as many as there are.
    """

    seed: int
    batch_augments: tuple[BatchAugment, ...] = ()
    weights: np.ndarray | None = None
    modality_dropout: float = 0.0
    num_samples: int = 0

    def compute_epoch_length(self, count: int) -> int:
        """How many samples an epoch has, of so many training samples."""
        return self.num_samples if self.num_samples and self.weights is not None else count

    def draw_sample_indices(self, count: int, epoch: tf.Tensor) -> tf.Tensor:
        """Positions of the samples of an epoch among the training samples, int32 (length(count),)."""
        seed = self._make_epoch_seed(epoch)
        if self.weights is None:
            return tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        chances = tf.math.log(tf.constant(self.weights))[None]
        return tf.random.stateless_categorical(chances, self.compute_epoch_length(count), seed, tf.int32)[0]

    def repeat_samples(self, samples: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Unshuffled (index, sample) of an epoch, each as often as it was drawn; copies get an index of their own."""
        if self.weights is None:
            return samples
        count = len(self.weights)
        times = tf.math.bincount(
            self.draw_sample_indices(count, epoch), minlength=count, maxlength=count, dtype=tf.int64
        )

        @without_autograph
        def copies(position: tf.Tensor, found: tuple[tf.Tensor, Any]) -> tf.data.Dataset:
            index, sample = found
            return tf.data.Dataset.range(times[position]).map(lambda copy: (index + copy * 2**32, sample))

        return parallel_map(samples, lambda *found: found).enumerate().flat_map(copies)

    def augment_batches(self, batches: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Batches of (inputs, targets, weights) of an epoch: those of one input mixed, of several some left out."""
        if not self.batch_augments and not self.modality_dropout:
            return batches

        def apply(number: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = batch
            seed = tf.random.experimental.stateless_fold_in(self._make_epoch_seed(epoch), number)
            if MODALITY_MASK in inputs:
                return inputs | {MODALITY_MASK: self._drop_modalities(inputs[MODALITY_MASK], seed)}, targets, weights
            ((name, x),) = inputs.items()
            if x.dtype.is_integer and x.dtype != tf.uint8:
                raise UserError("tokens cannot be mixed", got=name, hint="leave mixup() and cutmix() out")
            for position, mix in enumerate(self.batch_augments):
                drawn = tf.random.experimental.stateless_fold_in(seed, position)
                x, targets, weights = mix.apply(x, targets, weights, drawn)
            return {name: x}, targets, weights

        return parallel_map(batches.enumerate(), apply)

    def _drop_modalities(self, modality_mask: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Presence (batch, towers) with some towers left out, of no sample all (Neverova et al., ModDrop, arXiv
        1501.00102).
        """
        kept = tf.cast(
            tf.random.stateless_uniform(tf.shape(modality_mask), seed) >= self.modality_dropout, modality_mask.dtype
        )
        left = modality_mask * kept
        return tf.where(tf.reduce_any(left > 0, axis=1, keepdims=True), left, modality_mask)

    def _make_epoch_seed(self, epoch: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.cast(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
