"""Augments that mix the samples of a batch: inputs of the trained part, targets and sample weights.

Behind a frozen trunk the inputs are its features, so that `mixup` is manifold mixup (Verma et al., arXiv 1806.05236).
"""

import tensorflow as tf

from tfx_finetune.datasets.augments.common import check_options, sample_beta
from tfx_finetune.types.components import AUGMENTS, AugmentedBatch, BatchAugment


@AUGMENTS.register
def mixup(alpha: float = 0.2) -> BatchAugment:
    """Average pairs of samples and their targets (Zhang et al., arXiv 1710.09412).

    Args:
        alpha: float > 0. Parameter of the distribution Beta(alpha, alpha) of the mixing weight. Default 0.2.
    """
    check_options("mixup", alpha > 0, "alpha > 0", alpha=alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> AugmentedBatch:
        lam, permutation = sample_beta(alpha, seed), _sample_permutation(inputs, seed)
        mixed = _interpolate(inputs, permutation, lam)
        return mixed, *(_interpolate_heads(values, permutation, lam) for values in (targets, weights))

    return BatchAugment(apply)


@AUGMENTS.register
def cutmix(alpha: float = 1.0) -> BatchAugment:
    """Paste a rectangle of one sample into another (Yun et al., arXiv 1905.04899); pooled features do not change.

    Args:
        alpha: float > 0. Parameter of the distribution Beta(alpha, alpha) of the mixing weight. Default 1.
    """
    check_options("cutmix", alpha > 0, "alpha > 0", alpha=alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> AugmentedBatch:
        if inputs.shape.rank != 4:
            return inputs, targets, weights
        permutation = _sample_permutation(inputs, seed)
        shape = tf.cast(tf.shape(inputs)[1:3], tf.float32)
        center = tf.random.stateless_uniform((2,), tf.random.experimental.stateless_fold_in(seed, 2)) * shape
        half_size = tf.sqrt(1 - sample_beta(alpha, seed)) * shape / 2
        first = tf.round(tf.maximum(center - half_size, 0))
        last = tf.round(tf.minimum(center + half_size, shape))
        rows, columns = (tf.range(shape[axis]) for axis in (0, 1))
        rows, columns = (
            (indices >= first[axis]) & (indices < last[axis]) for axis, indices in enumerate((rows, columns))
        )
        window = rows[:, None] & columns[None, :]
        mixed = tf.where(window[None, :, :, None], tf.gather(inputs, permutation), inputs)
        lam = 1 - tf.reduce_mean(tf.cast(window, tf.float32))
        return mixed, *(_interpolate_heads(values, permutation, lam) for values in (targets, weights))

    return BatchAugment(apply)


def _sample_permutation(inputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    permutation_seed = tf.random.experimental.stateless_fold_in(seed, 1)
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(inputs)[0]), permutation_seed)


def _interpolate(values: tf.Tensor, permutation: tf.Tensor, lam: tf.Tensor) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return lam * values + (1 - lam) * tf.gather(values, permutation)


def _interpolate_heads(values: dict[str, tf.Tensor], permutation: tf.Tensor, lam: tf.Tensor) -> dict[str, tf.Tensor]:
    return {head: _interpolate(value, permutation, lam) for head, value in values.items()}
