"""Keras models as everything here makes and reads them: graphs between tensors, and files that may not run code."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import BACKBONES, NECKS, TASKS, Batch, Predict

# TensorFlow copies the constants of a graph several times before it runs.
_MOST_CONSTANT = 100_000_000


def joined(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """A model of the layers between inputs, by names of their own, and outputs."""
    kept = [(tensor, tensor._keras_history) for tensor in keras.tree.flatten(inputs)]
    with warnings.catch_warnings():
        # Keras would have a key equal the tensor's name.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = keras.Model(inputs, outputs, name=name)
    for tensor, history in kept:  # Keras changes that of an input beside tensors of a graph, which it then cannot save.
        tensor._keras_history = history
    return model


def read(path: Path) -> keras.Model:
    """The model of a Keras file; one that would run code is refused, by any error of Keras."""
    # Towers, necks and heads have layers of their own, which Keras knows once their files are imported.
    for registry in (BACKBONES, NECKS, TASKS):
        len(registry)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def predictor(model: keras.Model) -> Predict:
    """The model as it is now, from inputs by name, (n, ...), to outputs by name, both as NumPy has them.

    Its weights are constants of the graph, up to 100 MB of them: TensorFlow then folds normalization and activations
    into convolutions, and takes two thirds of the time.
    """
    # One graph for any batch: the last one is smaller, and would be traced again.
    specs = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in model.input.items()}
    parts = model.trainable_variables, model.non_trainable_variables
    weights = [[np.asarray(weight) for weight in part] for part in parts]
    small = sum(value.nbytes for part in weights for value in part) <= _MOST_CONSTANT

    @tf.function(input_signature=[specs], autograph=False)
    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if not small:
            return model(inputs, training=False)
        return model.stateless_call(*(list(map(tf.constant, part)) for part in weights), inputs, training=False)[0]

    def predict(inputs: Batch) -> Batch:
        fed = {name: tf.cast(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: value.numpy() for name, value in run(fed).items()}

    return predict
