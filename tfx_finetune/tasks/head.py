"""Head on pooled features that classification tasks share, its class weights, and the check of common options."""

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
    dropout: float,
    hidden_units: int,
    init: Init,
    prior: np.ndarray,
    l2_to_shared: float = 0.0,
    adapter_dim: int = 0,
) -> Callable[[Features], dict]:
    """Return a head: dropout, then a dense layer from pooled features (batch, dim) to logits (batch, classes).

    Args:
        dropout: float, 0 to below 1. Dropout rate before the dense layer, and after a hidden layer.
        hidden_units: int >= 0. Units of a hidden layer before the dense layer; 0 for none.
        init: Initializer of the kernel. `prior` starts with a zero kernel and `prior` as the bias, so that the first
            predictions are the class frequencies (Lin et al., Focal Loss, arXiv 1708.02002, section 3.3).
        prior: float (classes,). Logits of the class frequencies.
        l2_to_shared: float >= 0. L2 penalty of the weights of the dense layer. Default 0.
        adapter_dim: int >= 0. Width of a residual bottleneck before the dense layer; 0 for none. Default 0.
    """

    def head(features: Features) -> dict:
        x = features.pooled
        if adapter_dim:
            bottleneck = keras.layers.Dense(adapter_dim, activation="relu")(x)
            x = keras.layers.Add()([x, keras.layers.Dense(x.shape[-1], kernel_initializer="zeros")(bottleneck)])
        x = add_hidden_layer(x, dropout, hidden_units)
        regularizer = keras.regularizers.L2(l2_to_shared) if l2_to_shared else None
        bias = keras.initializers.Constant(prior.tolist()) if init == "prior" else "zeros"
        # The logits stay float32 under a mixed-precision policy: softmax in 8 bits of mantissa loses accuracy.
        dense = keras.layers.Dense(
            len(prior),
            kernel_initializer=_KERNEL_INITIALIZERS[init],
            bias_initializer=bias,
            kernel_regularizer=regularizer,
            bias_regularizer=regularizer,
            dtype="float32",
        )
        return {"logits": dense(x)}

    return head


def add_hidden_layer(x: keras.KerasTensor, dropout: float, hidden_units: int) -> keras.KerasTensor:
    """Apply dropout, and then a hidden layer with dropout if `hidden_units` is above 0.

    Args:
        x: (batch, dim). Features.
        dropout: float, 0 to below 1. Dropout rate.
        hidden_units: int >= 0. Units of the hidden layer; 0 for none.

    Returns:
        (batch, hidden_units), or (batch, dim) without a hidden layer.
    """
    x = keras.layers.Dropout(dropout)(x)
    return keras.layers.Dropout(dropout)(keras.layers.Dense(hidden_units, activation="relu")(x)) if hidden_units else x


def compute_class_weights(labels: ClassLabels, mode: ClassWeights) -> np.ndarray:
    """Compute the weight of each class, (classes,), with mean 1 over the labels of the training samples.

    Args:
        labels: Classes with their training counts.
        mode: `none` for equal weights; `balanced` for weights inverse to the frequency, as in scikit-learn:
            labels / (classes * labels of the class). A class without training samples counts as one with one sample.

    Examples:
        >>> compute_class_weights(ClassLabels(("cat", "dog"), (3, 1), 4), "balanced").tolist()
        [0.6666666865348816, 2.0]
    """
    counts = np.asarray(labels.counts, np.float32)
    if mode == "none":
        return np.ones_like(counts)
    return counts.sum() / (len(counts) * np.maximum(counts, 1.0))


def check_options(task: str, *, label_smoothing: float, focal: float, dropout: float, hidden_units: int = 0) -> None:
    """Check the ranges of options that several tasks have.

    Args:
        task: Name of the task, for the message.
        label_smoothing: 0 to below 1.
        focal: 0 or more.
        dropout: 0 to below 1.
        hidden_units: 0 or more.

    Raises:
        UserError: If an option is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing of {task}() is out of range", got=label_smoothing, expected="0 to below 1")
    if not focal >= 0:
        raise UserError(f"focal of {task}() is out of range", got=focal, expected="0 or more")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout of {task}() is out of range", got=dropout, expected="0 to below 1")
    if hidden_units < 0:
        raise UserError(f"hidden_units of {task}() is out of range", got=hidden_units, expected="0 or more")
