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
Apply = Callable[[np.ndarray], Outputs]
_Lists = Callable[[np.ndarray], list[np.ndarray]]

# Conversion costs 2 to 4 seconds; below so many samples Keras is done sooner.
_WORTH_CONVERTING = 400
_INTERPRETERS = 16


def engine(trunk: keras.Model, samples: int, precision: str = "float32") -> Apply:
    """Returns a function from prepared inputs (batch, ...) to the trunk's output (batch, ...), or a list of outputs.

    Nothing is converted or traced before its first call, which may never come: its outputs may be on disk.

    Args:
        trunk: A model of one input, and one output or a list of them, run in inference mode.
        samples: How many samples it is wanted for.
        precision: Of the output: `float32`, or `float16`, which ends at 65,504.
    """
    apply = functools.cache(lambda: _fastest(trunk, samples))
    limit = float(np.finfo(precision).max)

    def run(inputs: np.ndarray) -> Outputs:
        outputs = apply()(inputs)
        if precision != "float32":
            outputs = [np.clip(output, -limit, limit).astype(precision) for output in outputs]
        return outputs if isinstance(trunk.output, list) else outputs[0]

    return run


def _fastest(trunk: keras.Model, samples: int) -> _Lists:
    if hardware.detect().engine == "litert" and samples >= _WORTH_CONVERTING:
        try:
            return _litert(trunk)
        except (RuntimeError, ValueError) as error:
            # The trunk is as right in Keras, only slower.
            progress.say(f"the frozen trunk runs in Keras: LiteRT cannot take it ({error})")
    return _keras(trunk)


def _keras(trunk: keras.Model) -> _Lists:
    run = tf.function(lambda inputs: _listed(trunk, inputs), jit_compile=hardware.detect().jit_compile)
    (source,) = trunk.inputs
    return lambda inputs: [output.numpy() for output in run(tf.cast(inputs, source.dtype))]


def _litert(trunk: keras.Model) -> _Lists:
    (source,) = trunk.inputs
    spec = tf.TensorSpec([1, *source.shape[1:]], source.dtype)
    frozen = litert.freeze(lambda inputs: _listed(trunk, inputs), [spec])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    # One single-threaded interpreter a core, each with a sample of its own, keeps every core busy to the end.
    count = min(hardware.detect().threads, _INTERPRETERS)
    free: queue.SimpleQueue[Interpreter] = queue.SimpleQueue()
    for _ in range(count):
        interpreter = litert.interpreter(content, threads=1)
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


def _listed(trunk: keras.Model, inputs: tf.Tensor) -> list[tf.Tensor]:
    outputs = trunk(inputs, training=False)
    return [tf.cast(output, tf.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]
