"""The engine that runs a frozen trunk: LiteRT on a CPU, where it is several times faster than Keras, else Keras."""

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
_MultiOutputFn = Callable[[np.ndarray], list[np.ndarray]]

# Conversion costs 2 to 4 seconds; below so many samples Keras is done sooner.
_MIN_SAMPLES_TO_CONVERT = 400
_MAX_INTERPRETERS = 16


def make_inference_fn(trunk: keras.Model, num_samples: int, precision: str = "float32") -> InferenceFn:
    """Returns a function from prepared inputs (batch, ...) to the trunk's output (batch, ...), or a list of outputs.

    Nothing is converted or traced before its first call, which may never come: its outputs may be on disk.

    Args:
        trunk: A model of one input, and one output or a list of them, run in inference mode.
        samples: How many samples it is wanted for.
        precision: Of the output: `float32`, or `float16`, which ends at 65,504.
    """
    apply = functools.cache(lambda: _make_fastest_fn(trunk, num_samples))
    limit = float(np.finfo(precision).max)

    def run(inputs: np.ndarray) -> Outputs:
        outputs = apply()(inputs)
        if precision != "float32":
            outputs = [np.clip(output, -limit, limit).astype(precision) for output in outputs]
        return outputs if isinstance(trunk.output, list) else outputs[0]

    return run


def _make_fastest_fn(trunk: keras.Model, num_samples: int) -> _MultiOutputFn:
    if hardware.detect().engine == "litert" and num_samples >= _MIN_SAMPLES_TO_CONVERT:
        try:
            return _make_litert_fn(trunk)
        except (RuntimeError, ValueError) as error:
            # The trunk is as right in Keras, only slower.
            progress.log(f"the frozen trunk runs in Keras: LiteRT cannot take it ({error})")
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
    # One single-threaded interpreter a core, each with a sample of its own, keeps every core busy to the end.
    count = min(hardware.detect().threads, _MAX_INTERPRETERS)
    free: queue.SimpleQueue[Interpreter] = queue.SimpleQueue()
    for _ in range(count):
        interpreter = litert.open_interpreter(content, threads=1)
        free.put(interpreter)
    # The converter leaves a function's outputs in their order.
    targets = [detail["index"] for detail in interpreter.get_output_details()]
    fed = interpreter.get_input_details()[0]["index"]
    pool = ThreadPoolExecutor(count)

    def one(sample: np.ndarray) -> list[np.ndarray]:
        interpreter = free.get()
        interpreter.set_tensor(fed, sample[None].astype(source.dtype))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(target)[0] for target in targets]
        free.put(interpreter)
        return outputs

    return lambda inputs: [np.stack(rows) for rows in zip(*pool.map(one, inputs), strict=True)]


def _call_as_list(trunk: keras.Model, inputs: tf.Tensor) -> list[tf.Tensor]:
    outputs = trunk(inputs, training=False)
    return [tf.cast(output, tf.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]
