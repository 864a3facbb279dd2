"""The linear head on pooled features that classification tasks share, and their class weights."""

from collections.abc import Callable
from typing import Literal

import keras
import numpy as np

from tfx_finetune.contracts import Features, Labels

Init = Literal["zeros", "glorot", "he", "prior"]
ClassWeights = Literal["none", "balanced"]

_KERNELS = {"zeros": "zeros", "prior": "zeros", "glorot": "glorot_uniform", "he": "he_normal"}


def linear(labels: Labels, dropout: float, init: Init, prior: np.ndarray) -> Callable[[Features], dict]:
    """Returns a head: dropout, then one dense layer from pooled features (batch, dim) to logits (batch, classes).

    Args:
        labels: The classes.
        dropout: Share of features dropped in training.
        init: Initialization of the kernel. `prior` starts from `prior` as bias, so that the first predictions
            are the class frequencies (Lin et al., Focal Loss, arXiv 1708.02002, section 3.3).
        prior: Logits of the class frequencies, (classes,).
    """

    def head(features: Features) -> dict:
        x = keras.layers.Dropout(dropout)(features.pooled)
        bias = keras.initializers.Constant(prior.tolist()) if init == "prior" else "zeros"
        # The logits stay float32 under a mixed-precision policy: softmax in 8 bits of mantissa loses accuracy.
        dense = keras.layers.Dense(
            len(labels.names), kernel_initializer=_KERNELS[init], bias_initializer=bias, dtype="float32"
        )
        return {"logits": dense(x)}

    return head


def class_weights(labels: Labels, kind: ClassWeights) -> np.ndarray:
    """Weight of each class, (classes,), of mean 1 over the training samples.

    `balanced` is inverse to the frequency, as in scikit-learn: samples / (classes * count).
    """
    counts = np.maximum(np.asarray(labels.counts, np.float32), 1.0)
    if kind == "none":
        return np.ones_like(counts)
    return counts.sum() / (len(counts) * counts)
