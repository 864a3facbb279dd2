"""What mixes samples of one batch with one another: what goes into the trained part, and targets and weights alike.

Behind a frozen trunk that is its output, so that mixup is manifold mixup (Verma et al., arXiv 1806.05236).
"""

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import AUGMENTS, AugmentedBatch, BatchAugment


@AUGMENTS.register
def mixup(alpha: float = 0.2) -> BatchAugment:
    """Averages pairs of samples and their targets (Zhang et al., arXiv 1710.09412).

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from, above 0.
    """
    _check_alpha("mixup", alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> AugmentedBatch:
        share, order = sample_beta(alpha, seed), _sample_permutation(inputs, seed)
        mixed = _interpolate(inputs, order, share)
        return mixed, *(_interpolate_heads(values, order, share) for values in (targets, weights))

    return BatchAugment(apply)


@AUGMENTS.register
def cutmix(alpha: float = 1.0) -> BatchAugment:
    """Puts a rectangle of one sample into another (Yun et al., arXiv 1905.04899); leaves pooled features as they are.

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from, above 0.
    """
    _check_alpha("cutmix", alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> AugmentedBatch:
        if inputs.shape.rank != 4:
            return inputs, targets, weights
        order = _sample_permutation(inputs, seed)
        shape = tf.cast(tf.shape(inputs)[1:3], tf.float32)
        centre = tf.random.stateless_uniform((2,), tf.random.experimental.stateless_fold_in(seed, 2)) * shape
        half = tf.sqrt(1 - sample_beta(alpha, seed)) * shape / 2
        first, last = tf.round(tf.maximum(centre - half, 0)), tf.round(tf.minimum(centre + half, shape))
        rows, columns = (
            (places >= first[axis]) & (places < last[axis]) for axis in (0, 1) for places in [tf.range(shape[axis])]
        )
        window = rows[:, None] & columns[None, :]
        mixed = tf.where(window[None, :, :, None], tf.gather(inputs, order), inputs)
        share = 1 - tf.reduce_mean(tf.cast(window, tf.float32))
        return mixed, *(_interpolate_heads(values, order, share) for values in (targets, weights))

    return BatchAugment(apply)


def _check_alpha(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise UserError(f"the alpha of {name} is out of range", got=alpha, expected="above 0")


def sample_beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """A share drawn from a symmetric Beta distribution."""
    two = tf.random.stateless_gamma((2,), seed, alpha) + 1e-30  # both may be 0 where alpha is small
    return two[0] / tf.reduce_sum(two)


def _sample_permutation(inputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = tf.random.experimental.stateless_fold_in(seed, 1)
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(inputs)[0]), drawn)


def _interpolate(values: tf.Tensor, permutation: tf.Tensor, lam: tf.Tensor) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return lam * values + (1 - lam) * tf.gather(values, permutation)


def _interpolate_heads(values: dict[str, tf.Tensor], permutation: tf.Tensor, lam: tf.Tensor) -> dict[str, tf.Tensor]:
    return {head: _interpolate(value, permutation, lam) for head, value in values.items()}
