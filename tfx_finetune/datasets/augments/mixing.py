"""What mixes samples of one batch with one another: what goes into the trained part, and targets and weights alike.

Behind a frozen trunk that is its output, so that mixup is manifold mixup (Verma et al., arXiv 1806.05236).
"""

import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import AUGMENTS, Mix, Mixed


@AUGMENTS.register
def mixup(alpha: float = 0.2) -> Mix:
    """Averages pairs of samples and their targets (Zhang et al., arXiv 1710.09412).

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from, above 0.
    """
    _check("mixup", alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> Mixed:
        share, order = beta(alpha, seed), _order(inputs, seed)
        mixed = _between(inputs, order, share)
        return mixed, *(_each(values, order, share) for values in (targets, weights))

    return Mix(apply)


@AUGMENTS.register
def cutmix(alpha: float = 1.0) -> Mix:
    """Puts a rectangle of one sample into another (Yun et al., arXiv 1905.04899); leaves pooled features as they are.

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from, above 0.
    """
    _check("cutmix", alpha)

    def apply(inputs: tf.Tensor, targets: dict, weights: dict, seed: tf.Tensor) -> Mixed:
        if inputs.shape.rank != 4:
            return inputs, targets, weights
        order = _order(inputs, seed)
        shape = tf.cast(tf.shape(inputs)[1:3], tf.float32)
        centre = tf.random.stateless_uniform((2,), tf.random.experimental.stateless_fold_in(seed, 2)) * shape
        half = tf.sqrt(1 - beta(alpha, seed)) * shape / 2
        first, last = tf.round(tf.maximum(centre - half, 0)), tf.round(tf.minimum(centre + half, shape))
        rows, columns = (
            (places >= first[axis]) & (places < last[axis]) for axis in (0, 1) for places in [tf.range(shape[axis])]
        )
        window = rows[:, None] & columns[None, :]
        mixed = tf.where(window[None, :, :, None], tf.gather(inputs, order), inputs)
        share = 1 - tf.reduce_mean(tf.cast(window, tf.float32))
        return mixed, *(_each(values, order, share) for values in (targets, weights))

    return Mix(apply)


def _check(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise UserError(f"the alpha of {name} is out of range", received=alpha, allowed="above 0")


def beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """A share drawn from a symmetric Beta distribution."""
    two = tf.random.stateless_gamma((2,), seed, alpha) + 1e-30  # both may be 0 where alpha is small
    return two[0] / tf.reduce_sum(two)


def _order(inputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    drawn = tf.random.experimental.stateless_fold_in(seed, 1)
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(inputs)[0]), drawn)


def _between(values: tf.Tensor, order: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return share * values + (1 - share) * tf.gather(values, order)


def _each(values: dict[str, tf.Tensor], order: tf.Tensor, share: tf.Tensor) -> dict[str, tf.Tensor]:
    return {head: _between(value, order, share) for head, value in values.items()}
