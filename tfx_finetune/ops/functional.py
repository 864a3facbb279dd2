"""Keras models as everything here makes and reads them: graphs between tensors, and files that may not run code."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import BACKBONES, NECKS, TASKS

# TensorFlow copies the constants of a graph several times before it runs.
_MAX_CONSTANT_WEIGHTS = 25_000_000
# Samples from which a batch is computed in two halves, side by side: where one waits for a small layer, the other
# does not. At 96 pixels 64 samples take an eighth less, at 224 a twentieth.
_MIN_BATCH_TO_SPLIT = 32


def build_submodel(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """A model of the layers between inputs, by names of their own, and outputs."""
    kept = [(tensor, tensor._keras_history) for tensor in keras.tree.flatten(inputs)]
    with warnings.catch_warnings():
        # Keras would have a key equal the tensor's name.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = keras.Model(inputs, outputs, name=name)
    for tensor, history in kept:  # Keras changes that of an input beside tensors of a graph, which it then cannot save.
        tensor._keras_history = history
    return model


def load_keras_model(path: Path) -> keras.Model:
    """The model of a Keras file; one that would run code is refused, by any error of Keras."""
    # Towers, necks and heads have layers of their own, which Keras knows once their files are imported.
    for registry in (BACKBONES, NECKS, TASKS):
        len(registry)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def make_predict_fn(model: keras.Model) -> PredictFn:
    """The model as it is now, from inputs by name, (n, ...), to outputs by name, both as NumPy has them.

    Its weights, up to 25 million, are constants of the graph: TensorFlow then folds normalization and activations into
    convolutions, and takes two thirds of the time.
    """
    # One graph for any batch: the last one is smaller, and would be traced again.
    specs = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in model.input.items()}
    constant = model.count_params() <= _MAX_CONSTANT_WEIGHTS
    parts = (model.trainable_variables, model.non_trainable_variables) if constant else ()
    weights = [[np.asarray(weight) for weight in part] for part in parts]

    @tf.function(input_signature=[specs], autograph=False)
    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if not constant:
            return model(inputs, training=False)
        return model.stateless_call(*(list(map(tf.constant, part)) for part in weights), inputs, training=False)[0]

    def answer(inputs: Batch) -> Batch:
        fed = {name: tf.cast(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: value.numpy() for name, value in run(fed).items()}

    beside = ThreadPoolExecutor(1)

    def predict(inputs: Batch) -> Batch:
        if (middle := len(next(iter(inputs.values()))) // 2) < _MIN_BATCH_TO_SPLIT // 2:
            return answer(inputs)
        rest = beside.submit(answer, {name: values[middle:] for name, values in inputs.items()})
        first = answer({name: values[:middle] for name, values in inputs.items()})
        last = rest.result()
        return {name: np.concatenate([values, last[name]]) for name, values in first.items()}

    return predict
