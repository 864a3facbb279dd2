"""Inference of the frozen part of a network: LiteRT on a CPU, where it is several times faster, otherwise Keras."""

import functools
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfx_finetune.core import hardware, progress
from tfx_finetune.ops import litert

Outputs = np.ndarray | list[np.ndarray]
InferenceFn = Callable[[np.ndarray], Outputs]
"""Function from preprocessed inputs (batch, ...) to the output (batch, ...) of a model, or a list of outputs."""
_MultiOutputFn = Callable[[np.ndarray], list[np.ndarray]]

# Conversion takes 2 to 4 seconds; for fewer samples, Keras is faster.
_MIN_SAMPLES_TO_CONVERT = 400
_MAX_INTERPRETERS = 16


def make_inference_fn(trunk: keras.Model, num_samples: int, precision: str = "float32") -> InferenceFn:
    """Return an inference function of the frozen part of a tower.

    Nothing is converted or traced before the first call, because cached features need no call.

    Args:
        trunk: Model with one input, and one output or a list of outputs. It runs in inference mode.
        num_samples: Number of samples that will be computed, which determines whether conversion to LiteRT pays.
        precision: Type of the outputs, `float32` or `float16`. Values beyond the range of float16 (65,504) are clipped.
    """
    make_fn = functools.cache(lambda: _make_fastest_fn(trunk, num_samples))
    limit = float(np.finfo(precision).max)

    def run(inputs: np.ndarray) -> Outputs:
        outputs = make_fn()(inputs)
        if precision != "float32":
            outputs = [np.clip(output, -limit, limit).astype(precision) for output in outputs]
        return outputs if isinstance(trunk.output, list) else outputs[0]

    return run


def _make_fastest_fn(trunk: keras.Model, num_samples: int) -> _MultiOutputFn:
    if hardware.detect().engine == "litert" and num_samples >= _MIN_SAMPLES_TO_CONVERT:
        try:
            return _make_litert_fn(trunk)
        except (RuntimeError, ValueError) as error:
            # Keras computes the same features, only slower.
            progress.log(f"the frozen part runs in Keras because LiteRT cannot convert it ({error})")
    return _make_keras_fn(trunk)


def _make_keras_fn(trunk: keras.Model) -> _MultiOutputFn:
    run = tf.function(lambda inputs: _call_as_list(trunk, inputs), jit_compile=hardware.detect().jit_compile)
    (source,) = trunk.inputs
    return lambda inputs: [output.numpy() for output in run(tf.cast(inputs, source.dtype))]


def _make_litert_fn(trunk: keras.Model) -> _MultiOutputFn:
    (source,) = trunk.inputs
    spec = tf.TensorSpec([1, *source.shape[1:]], source.dtype)
    frozen = litert.freeze(lambda inputs: _call_as_list(trunk, inputs), [spec])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    # One single-threaded interpreter per core, each with its own sample, keeps all cores busy.
    count = min(hardware.detect().threads, _MAX_INTERPRETERS)
    idle: queue.SimpleQueue[Interpreter] = queue.SimpleQueue()
    for _ in range(count):
        interpreter = litert.open_interpreter(content, threads=1)
        idle.put(interpreter)
    # The converter keeps the order of the outputs.
    output_indices = [detail["index"] for detail in interpreter.get_output_details()]
    input_index = interpreter.get_input_details()[0]["index"]
    pool = ThreadPoolExecutor(count)

    def run_sample(sample: np.ndarray) -> list[np.ndarray]:
        interpreter = idle.get()
        interpreter.set_tensor(input_index, sample[None].astype(source.dtype))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(index)[0] for index in output_indices]
        idle.put(interpreter)
        return outputs

    return lambda inputs: [np.stack(outputs) for outputs in zip(*pool.map(run_sample, inputs), strict=True)]


def _call_as_list(trunk: keras.Model, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Return the outputs of a model in inference mode as a list of float32 tensors."""
    outputs = trunk(inputs, training=False)
    return [tf.cast(output, tf.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]
