"""How training samples follow one another: shuffled or drawn anew each epoch, and mixed within a batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.tf_data import mapped, plain
from tfx_finetune.types.components import PRESENCE, Mix


@dataclass(frozen=True, eq=False)
class Order:
    """The order of an epoch; it depends on the seed and the epoch alone, so that training can go on anywhere.

    Attributes:
        seed: Of the run.
        mixes: Changes of whole batches.
        dropped: Chance that what one of several towers takes is left out of a sample.
        chances: Chance of each training sample to be drawn, (n,), summing to 1; None where each comes once an epoch.
        drawn: How many are drawn in an epoch; 0 for as many as there are.
    """

    seed: int
    mixes: tuple[Mix, ...] = ()
    chances: np.ndarray | None = None
    dropped: float = 0.0
    drawn: int = 0

    def length(self, count: int) -> int:
        """How many samples an epoch has, of so many training samples."""
        return self.drawn if self.drawn and self.chances is not None else count

    def rows(self, count: int, epoch: tf.Tensor) -> tf.Tensor:
        """Positions of the samples of an epoch among the training samples, int32 (length(count),)."""
        seed = self._seed(epoch)
        if self.chances is None:
            return tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        chances = tf.math.log(tf.constant(self.chances))[None]
        return tf.random.stateless_categorical(chances, self.length(count), seed, tf.int32)[0]

    def repeated(self, samples: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Unshuffled (index, sample) of an epoch, each as often as it was drawn; copies get an index of their own."""
        if self.chances is None:
            return samples
        count = len(self.chances)
        times = tf.math.bincount(self.rows(count, epoch), minlength=count, maxlength=count, dtype=tf.int64)

        @plain
        def copies(position: tf.Tensor, found: tuple[tf.Tensor, Any]) -> tf.data.Dataset:
            index, sample = found
            return tf.data.Dataset.range(times[position]).map(lambda copy: (index + copy * 2**32, sample))

        return mapped(samples, lambda *found: found).enumerate().flat_map(copies)

    def mixed(self, batches: tf.data.Dataset, epoch: tf.Tensor) -> tf.data.Dataset:
        """Batches of (inputs, targets, weights) of an epoch: those of one input mixed, of several some left out."""
        if not self.mixes and not self.dropped:
            return batches

        def apply(number: tf.Tensor, batch: tuple[dict, dict, dict]) -> tuple[dict, dict, dict]:
            inputs, targets, weights = batch
            seed = tf.random.experimental.stateless_fold_in(self._seed(epoch), number)
            if PRESENCE in inputs:
                return inputs | {PRESENCE: self._left(inputs[PRESENCE], seed)}, targets, weights
            ((name, x),) = inputs.items()
            if x.dtype.is_integer and x.dtype != tf.uint8:
                raise UserError("tokens cannot be mixed", received=name, todo="leave mixup() and cutmix() out")
            for position, mix in enumerate(self.mixes):
                drawn = tf.random.experimental.stateless_fold_in(seed, position)
                x, targets, weights = mix.apply(x, targets, weights, drawn)
            return {name: x}, targets, weights

        return mapped(batches.enumerate(), apply)

    def _left(self, presence: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Presence (batch, towers) with some towers left out, of no sample all (Neverova et al., ModDrop, arXiv
        1501.00102).
        """
        kept = tf.cast(tf.random.stateless_uniform(tf.shape(presence), seed) >= self.dropped, presence.dtype)
        left = presence * kept
        return tf.where(tf.reduce_any(left > 0, axis=1, keepdims=True), left, presence)

    def _seed(self, epoch: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.cast(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
