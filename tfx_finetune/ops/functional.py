"""Functional Keras models: submodels, loading of Keras files, and fast NumPy inference."""

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
# Minimum size of a batch that is computed in two concurrent halves: while one half waits for a small layer, the other
# one computes. At 96 pixels, 64 samples take an eighth less time, at 224 pixels a twentieth.
_MIN_BATCH_TO_SPLIT = 32


def get_operation_name(tensor: keras.KerasTensor) -> str:
    """Return the name of the operation whose output is the tensor; in a model, of its layer."""
    return str(tensor._keras_history.operation.name)


def build_submodel(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """Build the model of the layers between tensors of a functional graph.

    Args:
        inputs: Symbolic tensor or structure of tensors. Keys of a dict need not be the names of the tensors.
        outputs: Symbolic tensor or structure of tensors.
        name: Name of the model, or None.
    """
    histories = [(tensor, tensor._keras_history) for tensor in keras.tree.flatten(inputs)]
    with warnings.catch_warnings():
        # Keras expects each key to equal the name of its tensor.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = keras.Model(inputs, outputs, name=name)
    # If inputs are inner tensors of a graph, Keras replaces their history, and the original graph cannot be saved.
    for tensor, history in histories:
        tensor._keras_history = history
    return model


def load_keras_model(path: Path) -> keras.Model:
    """Load a Keras file in safe mode.

    Args:
        path: A `.keras` file.

    Raises:
        Exception: Any error of Keras, if the file is invalid or would run code.
    """
    # The import of all backbones, necks and tasks registers their custom layers with Keras.
    for registry in (BACKBONES, NECKS, TASKS):
        len(registry)
    return keras.models.load_model(path, compile=False, safe_mode=True)


def make_predict_fn(model: keras.Model) -> PredictFn:
    """Make a NumPy inference function with the current weights of a model.

    Up to 25 million weights become constants of the graph. TensorFlow then folds normalization and activations into
    convolutions, which takes a third off the time.

    Args:
        model: Model with inputs and outputs by name.

    Returns:
        Function from input arrays (n, ...) by name to output arrays (n, ...) by name.
    """
    # One graph of variable batch size: a smaller last batch would be traced again.
    specs = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in model.input.items()}
    has_constant_weights = model.count_params() <= _MAX_CONSTANT_WEIGHTS
    variables = (model.trainable_variables, model.non_trainable_variables) if has_constant_weights else ()
    weights = [[np.asarray(variable) for variable in group] for group in variables]

    @tf.function(input_signature=[specs], autograph=False)
    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if not has_constant_weights:
            return model(inputs, training=False)
        return model.stateless_call(*(list(map(tf.constant, group)) for group in weights), inputs, training=False)[0]

    def predict_batch(inputs: Batch) -> Batch:
        tensors = {name: tf.cast(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: value.numpy() for name, value in run(tensors).items()}

    executor = ThreadPoolExecutor(1)

    def predict(inputs: Batch) -> Batch:
        if (middle := len(next(iter(inputs.values()))) // 2) < _MIN_BATCH_TO_SPLIT // 2:
            return predict_batch(inputs)
        second_half = executor.submit(predict_batch, {name: values[middle:] for name, values in inputs.items()})
        first = predict_batch({name: values[:middle] for name, values in inputs.items()})
        second = second_half.result()
        return {name: np.concatenate([values, second[name]]) for name, values in first.items()}

    return predict
