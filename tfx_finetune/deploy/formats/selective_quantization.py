"""Which layers of an int8 file stay float: the fewest with which it loses no more than it may.

One scale for a whole tensor leaves next to nothing to most of its channels where a single one is far larger (Nagel et
al., Data-free quantization, arXiv 1906.04721, section 3), so a few places can ruin a network that is sound elsewhere.
TensorFlow's quantization debugger shows them, and a search finds how many of them matter. Calibration, which takes
longest, runs once; to round the calibrated graph anew takes less than a second.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize

from tfx_finetune.core import progress
from tfx_finetune.ops import litert

Samples = Callable[[], Iterator[list[np.ndarray]]]


def convert(
    title: str,
    make: Callable[[], tf.lite.TFLiteConverter],
    samples: Samples,
    types: tuple[tf.DType, tf.DType],
    drop: Callable[[bytes], float],
    allowed: float,
) -> bytes:
    """Writes an int8 file some of whose operators compute in float, and says which.

    Where it loses more than it may whatever stays float, it is the one that loses least.

    Args:
        title: What the file is called in the line that is said.
        make: Makes a converter to int8 with its calibration.
        samples: Prepared pictures on which errors are measured.
        types: Of the input and of the outputs.
        drop: A file's content -> the score that it loses.
        allowed: What it may lose.

    Raises:
        RuntimeError: The converter cannot take the graph; the message is the converter's own.
    """
    calibrated, errors = litert.quietly(lambda: _measured(make, samples))
    operators = _operators(calibrated)
    tried: dict[tuple[str, ...], float] = {}

    def content(floats: Sequence[str]) -> bytes:
        return litert.quietly(
            lambda: mlir_quantize(
                calibrated, input_data_type=types[0], output_data_type=types[1], denylisted_nodes=list(floats)
            )
        )

    def holds(floats: Sequence[str]) -> bool:
        if tuple(floats) not in tried:
            tried[tuple(floats)] = drop(content(floats))
        return tried[tuple(floats)] <= allowed

    # A tensor is exact only where what gives it and all that take it are float.
    worst = sorted(errors, key=lambda name: -errors[name])
    floats = fewest([[name, *operators[name]] for name in worst], holds)
    if floats is None:
        floats = list(min(tried.items(), key=lambda trial: trial[1])[0])
    named = progress.some(dict.fromkeys(map(litert.layer, floats)))
    progress.say(f"{title}: {len(floats)} of {len(operators)} operators stay float{named and f': {named}'}")
    return content(floats)


def fewest(groups: Sequence[Sequence[str]], holds: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """The first groups, as few as hold, less every member that they hold without; None where not even all of them do.

    What is left out of it makes it fail: it is minimal, though others may be smaller (Zeller and Hildebrandt,
    Simplifying and isolating failure-inducing input, IEEE TSE 28, 2002).
    """

    def members(count: int) -> list[str]:
        return list(dict.fromkeys(member for group in groups[:count] for member in group))

    if holds([]):
        return []
    if not holds(members(len(groups))):
        return None
    fails, enough = 0, len(groups)
    while enough - fails > 1:
        half = (fails + enough) // 2
        fails, enough = (fails, half) if holds(members(half)) else (half, enough)
    found = members(enough)
    size = len(found)
    while size := size // 2:
        for end in range(len(found), 0, -size):
            rest = found[: max(end - size, 0)] + found[end:]
            if rest and holds(rest):
                found = rest
    return found


def _measured(make: Callable[[], tf.lite.TFLiteConverter], samples: Samples) -> tuple[bytes, dict[str, float]]:
    """The calibrated graph, and the error of each operator by the name of its output."""
    debugger = tf.lite.experimental.QuantizationDebugger
    options = tf.lite.experimental.QuantizationDebugOptions(layer_direct_compare_metrics={"lost": lost})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It uses an interpreter that TensorFlow is about to drop.
        made = debugger(converter=make(), debug_dataset=samples)
        # Only a debugger that is given a file keeps the tensors that it compares; else they are overwritten by then.
        work = debugger(
            quant_debug_model_content=made.get_debug_quantized_model(), debug_dataset=samples, debug_options=options
        )
        work.run()
    known = _operators(made.calibrated_model)
    errors = {}
    for name, found in work.layer_statistics.items():
        # It is called NumericVerify/<tensor>:<position>, the tensor being the rounded one, with one more digit.
        rounded = name.removeprefix("NumericVerify/").rpartition(":")[0]
        if rounded[:-1] in known:
            errors[rounded[:-1]] = float(found["lost"])
    return made.calibrated_model, errors


def lost(real: np.ndarray, rounded: np.ndarray, scale: float, zero: int) -> float:
    """Share of its power that rounding takes from a channel, of 0 to 1, mean over the channels, which are last."""
    values = real.reshape(-1, real.shape[-1]).astype(np.float64)
    errors = values - scale * (rounded.reshape(values.shape).astype(np.float64) - zero)
    power = (values**2).mean(0)
    return float(np.minimum((errors**2).mean(0) / np.where(power, power, 1), 1).mean())


def _operators(content: bytes) -> dict[str, list[str]]:
    """The operators that take the output of each operator, all called by the name of their first output."""
    _, graph, found = litert.calls(content)
    calls = [call for call, _ in found]
    names = [graph.Tensors(call.Outputs(0)).Name().decode() for call in calls]
    takers: dict[Any, list[str]] = {}
    for call, name in zip(calls, names, strict=True):
        for tensor in call.InputsAsNumpy():
            takers.setdefault(tensor, []).append(name)
    return {name: takers.get(call.Outputs(0), []) for call, name in zip(calls, names, strict=True)}
