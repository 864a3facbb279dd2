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

RepresentativeDataset = Callable[[], Iterator[list[np.ndarray]]]


def convert(
    title: str,
    make_converter: Callable[[], tf.lite.TFLiteConverter],
    representative_dataset: RepresentativeDataset,
    io_types: tuple[tf.DType, tf.DType],
    score_drop: Callable[[bytes], float],
    max_drop: float,
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
    calibrated, errors = litert.run_quietly(lambda: _calibrate(make_converter, representative_dataset))
    operators = _list_consumers(calibrated)
    tried: dict[tuple[str, ...], float] = {}

    def content(floats: Sequence[str]) -> bytes:
        return litert.run_quietly(
            lambda: mlir_quantize(
                calibrated, input_data_type=io_types[0], output_data_type=io_types[1], denylisted_nodes=list(floats)
            )
        )

    def holds(floats: Sequence[str]) -> bool:
        if tuple(floats) not in tried:
            tried[tuple(floats)] = score_drop(content(floats))
        return tried[tuple(floats)] <= max_drop

    # A tensor is exact only where what gives it and all that take it are float.
    worst = sorted(errors, key=lambda name: -errors[name])
    floats = find_minimal_float_layers([[name, *operators[name]] for name in worst], holds)
    if floats is None:
        floats = list(min(tried.items(), key=lambda trial: trial[1])[0])
    named = progress.shorten_list(dict.fromkeys(map(litert.parse_layer_name, floats)))
    progress.log(f"{title}: {len(floats)} of {len(operators)} operators stay float{named and f': {named}'}")
    return content(floats)


def find_minimal_float_layers(
    groups: Sequence[Sequence[str]], passes: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """The first groups, as few as hold, less every member that they hold without; None where not even all of them do.

    What is left out of it makes it fail: it is minimal, though others may be smaller (Zeller and Hildebrandt,
    Simplifying and isolating failure-inducing input, IEEE TSE 28, 2002).
    """

    def members(count: int) -> list[str]:
        return list(dict.fromkeys(member for group in groups[:count] for member in group))

    if passes([]):
        return []
    if not passes(members(len(groups))):
        return None
    fails, enough = 0, len(groups)
    while enough - fails > 1:
        half = (fails + enough) // 2
        fails, enough = (fails, half) if passes(members(half)) else (half, enough)
    found = members(enough)
    size = len(found)
    while size := size // 2:
        for end in range(len(found), 0, -size):
            rest = found[: max(end - size, 0)] + found[end:]
            if rest and passes(rest):
                found = rest
    return found


def _calibrate(
    make_converter: Callable[[], tf.lite.TFLiteConverter], representative_dataset: RepresentativeDataset
) -> tuple[bytes, dict[str, float]]:
    """The calibrated graph, and the error of each operator by the name of its output."""
    debugger = tf.lite.experimental.QuantizationDebugger
    options = tf.lite.experimental.QuantizationDebugOptions(
        layer_direct_compare_metrics={"lost": compute_normalized_error}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It uses an interpreter that TensorFlow is about to drop.
        made = debugger(converter=make_converter(), debug_dataset=representative_dataset)
        # Only a debugger that is given a file keeps the tensors that it compares; else they are overwritten by then.
        work = debugger(
            quant_debug_model_content=made.get_debug_quantized_model(),
            debug_dataset=representative_dataset,
            debug_options=options,
        )
        work.run()
    known = _list_consumers(made.calibrated_model)
    errors = {}
    for name, found in work.layer_statistics.items():
        # It is called NumericVerify/<tensor>:<position>, the tensor being the rounded one, with one more digit.
        rounded = name.removeprefix("NumericVerify/").rpartition(":")[0]
        if rounded[:-1] in known:
            errors[rounded[:-1]] = float(found["lost"])
    return made.calibrated_model, errors


def compute_normalized_error(float_values: np.ndarray, quantized: np.ndarray, scale: float, zero_point: int) -> float:
    """Share of its power that rounding takes from a channel, of 0 to 1, mean over the channels, which are last."""
    values = float_values.reshape(-1, float_values.shape[-1]).astype(np.float64)
    errors = values - scale * (quantized.reshape(values.shape).astype(np.float64) - zero_point)
    power = (values**2).mean(0)
    return float(np.minimum((errors**2).mean(0) / np.where(power, power, 1), 1).mean())


def _list_consumers(content: bytes) -> dict[str, list[str]]:
    """The operators that take the output of each operator, all called by the name of their first output."""
    _, graph, found = litert.parse_operators(content)
    calls = [call for call, _ in found]
    names = [graph.Tensors(call.Outputs(0)).Name().decode() for call in calls]
    takers: dict[Any, list[str]] = {}
    for call, name in zip(calls, names, strict=True):
        for tensor in call.InputsAsNumpy():
            takers.setdefault(tensor, []).append(name)
    return {name: takers.get(call.Outputs(0), []) for call, name in zip(calls, names, strict=True)}
