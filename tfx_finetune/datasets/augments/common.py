"""Helpers that several augments use."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfx_finetune.core.errors import UserError


def check_options(component: str, is_valid: bool, expected: str, **options: Any) -> None:
    """Raise an error if the options of an augment are out of range.

    Args:
        component: Name of the augment.
        is_valid: Result of the check.
        expected: The conditions, such as `0 <= probability <= 1`.
        **options: Values of the options in the conditions, for the message.

    Raises:
        UserError: If `is_valid` is False.

    Examples:
        >>> check_options("flip", False, "0 <= probability <= 1", probability=2)
        Traceback (most recent call last):
        tfx_finetune.core.errors.UserError: Options of flip() are out of range: probability=2. \
Expected: 0 <= probability <= 1.
    """
    if not is_valid:
        values = ", ".join(f"{name}={value}" for name, value in options.items())
        raise UserError(f"Options of {component}() are out of range", got=values, expected=expected)


def apply_with_probability(
    sample: dict[str, Any], seed: tf.Tensor, probability: float, function: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, Any]:
    """Apply a function that moves no pixels to the image of a sample, with a probability.

    Args:
        sample: Sample with an `image`. Mask and boxes do not change.
        seed: int64 (2,). Stateless seed of the decision.
        probability: float, 0 to 1.
        function: uint8 pixels (height, width, channels) -> uint8 pixels of the same shape.
    """
    pixels = sample["image"]
    is_applied = tf.random.stateless_uniform((), seed) < probability
    return sample | {"image": tf.cond(is_applied, lambda: function(pixels), lambda: pixels)}


def sample_beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Sample from the symmetric distribution Beta(alpha, alpha).

    Args:
        alpha: float > 0.
        seed: int64 (2,). Stateless seed.

    Returns:
        float32 scalar, 0 to 1.
    """
    gammas = tf.random.stateless_gamma((2,), seed, alpha) + 1e-30  # both may be 0 if alpha is small
    return gammas[0] / tf.reduce_sum(gammas)
