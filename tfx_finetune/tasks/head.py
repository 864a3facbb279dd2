"""The head on pooled features that classification tasks share, their class weights, and what they allow."""

from collections.abc import Callable
from typing import Literal

import keras
import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Features
from tfx_finetune.types.task import ClassLabels

Init = Literal["zeros", "glorot", "he", "prior"]
ClassWeights = Literal["none", "balanced"]

_KERNEL_INITIALIZERS = {"zeros": "zeros", "prior": "zeros", "glorot": "glorot_uniform", "he": "he_normal"}


def make_classification_head(
    labels: ClassLabels,
    dropout: float,
    hidden_units: int,
    init: Init,
    prior: np.ndarray,
    l2_to_shared: float = 0.0,
    adapter_dim: int = 0,
) -> Callable[[Features], dict]:
    """Returns a head: dropout, then a dense layer from pooled features (batch, dim) to logits (batch, classes).

    Args:
        labels: The classes.
        dropout: Share of features, and of the hidden layer, dropped in training.
        hidden: Numbers of a layer before that one, with dropout of its own; 0 for none.
        init: Initialization of the kernel. `prior` starts from `prior` as bias, so that the first predictions
            are the class frequencies (Lin et al., Focal Loss, arXiv 1708.02002, section 3.3).
        prior: Logits of the class frequencies, (classes,).
        pull: L2 penalty of the dense layer's weights.
        adapter: Width of a residual bottleneck before the dense layer; 0 for none.
    """

    def head(features: Features) -> dict:
        x = features.pooled
        if adapter_dim:
            narrow = keras.layers.Dense(adapter_dim, activation="relu")(x)
            x = keras.layers.Add()([x, keras.layers.Dense(x.shape[-1], kernel_initializer="zeros")(narrow)])
        x = add_hidden_layer(x, dropout, hidden_units)
        pulled = keras.regularizers.L2(l2_to_shared) if l2_to_shared else None
        bias = keras.initializers.Constant(prior.tolist()) if init == "prior" else "zeros"
        # The logits stay float32 under a mixed-precision policy: softmax in 8 bits of mantissa loses accuracy.
        dense = keras.layers.Dense(
            len(labels.names),
            kernel_initializer=_KERNEL_INITIALIZERS[init],
            bias_initializer=bias,
            kernel_regularizer=pulled,
            bias_regularizer=pulled,
            dtype="float32",
        )
        return {"logits": dense(x)}

    return head


def add_hidden_layer(x: keras.KerasTensor, dropout: float, hidden_units: int) -> keras.KerasTensor:
    """What stands below a head's last layer: dropout, then a hidden layer with dropout of its own; `hidden` 0 for none.

    Args:
        x: Features, (batch, dim).
        dropout: Share of numbers dropped in training.
        hidden: Numbers of the layer.

    Returns:
        (batch, hidden), or (batch, dim) without one.
    """
    x = keras.layers.Dropout(dropout)(x)
    return keras.layers.Dropout(dropout)(keras.layers.Dense(hidden_units, activation="relu")(x)) if hidden_units else x


def compute_class_weights(labels: ClassLabels, kind: ClassWeights) -> np.ndarray:
    """Weight of each class, (classes,), of mean 1 over the labels of the training samples.

    `balanced` is inverse to the frequency, as in scikit-learn: labels in all / (classes * labels of the class). A
    class without training samples is weighed as one with a single sample.
    """
    counts = np.asarray(labels.counts, np.float32)
    if kind == "none":
        return np.ones_like(counts)
    return counts.sum() / (len(counts) * np.maximum(counts, 1.0))


def check_options(*, label_smoothing: float, focal: float, dropout: float, hidden_units: int = 0) -> None:
    """Raises a `UserError` for the first option outside its range."""
    if not 0 <= label_smoothing < 1:
        raise UserError("label_smoothing is out of range", got=label_smoothing, expected="0 to below 1")
    if not focal >= 0:
        raise UserError("focal is out of range", got=focal, expected="0 or more")
    if not 0 <= dropout < 1:
        raise UserError("dropout is out of range", got=dropout, expected="0 to below 1")
    if hidden_units < 0:
        raise UserError("hidden is out of range", got=hidden_units, expected="0 or more")
