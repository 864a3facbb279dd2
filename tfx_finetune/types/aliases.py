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
"""Function from the outputs of one head to other outputs of it; names have no prefix `<head>/`."""

PostprocessFn: TypeAlias = Callable[..., dict[str, Any]]
"""`HeadFn` of a detection or segmentation head, with an optional second argument `nms_inputs`; see
`LocalizationTarget.postprocess_fn`."""

Batch = dict[str, Any]
"""Model inputs or outputs by name: NumPy arrays whose first axis is the sample."""

PredictFn = Callable[[Batch], Batch]
"""Function from prepared inputs to decoded outputs, run by Keras, a SavedModel, TFLite or another runtime."""

AugmentFn = Callable[[dict[str, Any], Any], dict[str, Any]]
"""(decoded sample, stateless seed (2,)) -> sample, in TensorFlow operations; annotations move with the image."""
