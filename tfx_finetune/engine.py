"""The engine that runs a frozen trunk: LiteRT on a CPU, where it is several times faster than Keras, else Keras."""

import functools
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfx_finetune import litert
from tfx_finetune.core import hardware, progress

Apply = Callable[[np.ndarray], np.ndarray]

# Conversion costs 2 to 4 seconds; below so many samples Keras is done sooner.
_WORTH_CONVERTING = 400
_INTERPRETERS = 16


def engine(trunk: keras.Model, samples: int, precision: str = "float32") -> Apply:
    """Returns a function from prepared inputs (batch, ...) to the trunk's output (batch, ...).

    Nothing is converted or traced before its first call, which may never come: its outputs may be on disk.

    Args:
        trunk: A model of one input and one output, run in inference mode.
        samples: How many samples it is wanted for.
        precision: Of the output: `float32`, or `float16`, which ends at 65,504.
    """
    apply = functools.cache(lambda: _fastest(trunk, samples))
    if precision == "float32":
        return lambda inputs: apply()(inputs)
    limit = float(np.finfo(precision).max)
    return lambda inputs: np.clip(apply()(inputs), -limit, limit).astype(precision)


def _fastest(trunk: keras.Model, samples: int) -> Apply:
    if hardware.detect().engine == "litert" and samples >= _WORTH_CONVERTING:
        try:
            return _litert(trunk)
        except (RuntimeError, ValueError) as error:
            # The trunk is as right in Keras, only slower.
            progress.say(f"the frozen trunk runs in Keras: LiteRT cannot take it ({error})")
    return _keras(trunk)


def _keras(trunk: keras.Model) -> Apply:
    run = tf.function(lambda inputs: trunk(inputs, training=False), jit_compile=hardware.detect().jit_compile)
    return lambda inputs: tf.cast(run(tf.cast(inputs, tf.float32)), tf.float32).numpy()


def _litert(trunk: keras.Model) -> Apply:
    (source,) = trunk.inputs
    spec = tf.TensorSpec([1, *source.shape[1:]], tf.float32)
    frozen = litert.freeze(lambda inputs: trunk(inputs, training=False), [spec])
    content = litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen]))
    # One single-threaded interpreter a core, each with a sample of its own, keeps every core busy to the end.
    count = min(hardware.detect().threads, _INTERPRETERS)
    free: queue.SimpleQueue[Interpreter] = queue.SimpleQueue()
    for _ in range(count):
        interpreter = litert.interpreter(content, threads=1)
        free.put(interpreter)
    fed, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    pool = ThreadPoolExecutor(count)

    def one(sample: np.ndarray) -> np.ndarray:
        interpreter = free.get()
        interpreter.set_tensor(fed, sample[None].astype(np.float32))
        interpreter.invoke()
        output = interpreter.get_tensor(target)[0]
        free.put(interpreter)
        return output

    return lambda inputs: np.stack(list(pool.map(one, inputs)))
