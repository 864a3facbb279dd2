"""Type aliases of arrays, tensors and functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    Tensor: TypeAlias = tf.Tensor
    Symbol: TypeAlias = keras.KerasTensor

HeadFn: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""A head's own outputs, by their names alone -> what is made of them."""

PostprocessFn: TypeAlias = Callable[..., dict[str, Any]]
"""The same of a head that finds things in pictures, which may be told limits beside; see `Places.found`."""

Batch = dict[str, Any]
"""Model inputs or outputs by name, NumPy arrays whose first axis is the sample."""

PredictFn = Callable[[Batch], Batch]
"""Prepared inputs -> decoded outputs, whatever runs them: Keras, a SavedModel, TFLite."""

AugmentFn = Callable[[dict[str, Any], Any], dict[str, Any]]
"""(decoded sample, stateless seed of shape (2,)) -> sample, in TensorFlow operations; moves everything together."""
