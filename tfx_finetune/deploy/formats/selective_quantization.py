"""Selective int8 quantization: the minimal set of operators that stay float so that the score drop is allowed.

With one scale per tensor, a single channel with much larger values leaves almost no precision to the others (Nagel et
al., Data-free quantization, arXiv 1906.04721, section 3), so a few tensors can ruin an otherwise sound network.
TensorFlow's quantization debugger measures the errors, and a search finds how many of the tensors matter. Calibration
takes longest and runs once; quantizing the calibrated graph again takes less than a second.
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
    """Convert a model to an int8 file with a minimal set of float operators, and log these.

    If the score drop is too large with all of the operators in float, the file with the smallest drop is returned.

    Args:
        title: Name of the format, for the log.
        make_converter: Returns a converter to int8 with its calibration.
        representative_dataset: Returns the samples on which quantization errors are measured.
        io_types: Dtypes of inputs and outputs.
        score_drop: Content of a file -> its score drop.
        max_drop: float. Allowed score drop.

    Raises:
        RuntimeError: If the converter does not support the graph; the message is the converter's.
    """
    calibrated, errors = litert.run_quietly(lambda: _calibrate(make_converter, representative_dataset))
    consumers = _list_consumers(calibrated)
    drops: dict[tuple[str, ...], float] = {}

    def quantize(float_operators: Sequence[str]) -> bytes:
        return litert.run_quietly(
            lambda: mlir_quantize(
                calibrated,
                input_data_type=io_types[0],
                output_data_type=io_types[1],
                denylisted_nodes=list(float_operators),
            )
        )

    def passes(float_operators: Sequence[str]) -> bool:
        if tuple(float_operators) not in drops:
            drops[tuple(float_operators)] = score_drop(quantize(float_operators))
        return drops[tuple(float_operators)] <= max_drop

    # A tensor is exact only if its producer and all of its consumers are float.
    worst_first = sorted(errors, key=lambda name: -errors[name])
    float_operators = find_minimal_float_layers([[name, *consumers[name]] for name in worst_first], passes)
    if float_operators is None:
        float_operators = list(min(drops.items(), key=lambda item: item[1])[0])
    names = progress.shorten_list(dict.fromkeys(map(litert.parse_layer_name, float_operators)))
    count = f"{len(float_operators)} of {len(consumers)} operators stay float"
    progress.log(f"{title}: {count}{names and f': {names}'}")
    return quantize(float_operators)


def find_minimal_float_layers(
    groups: Sequence[Sequence[str]], passes: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """Return the members of as few of the first groups as pass, without those members that are not needed.

    The result is minimal: without any further member it fails, although another smaller set may exist (delta debugging:
    Zeller and Hildebrandt, Simplifying and isolating failure-inducing input, IEEE TSE 28, 2002).

    Args:
        groups: Names of operators, the most important group first.
        passes: Returns True if a model with these operators in float is good enough.

    Returns:
        Names of operators; None if all groups together do not pass.

    Examples:
        >>> find_minimal_float_layers([["a", "b"], ["c"], ["d"]], lambda names: {"b", "c"} <= set(names))
        ['b', 'c']
    """

    def members(count: int) -> list[str]:
        return list(dict.fromkeys(member for group in groups[:count] for member in group))

    if passes([]):
        return []
    if not passes(members(len(groups))):
        return None
    failing, passing = 0, len(groups)
    while passing - failing > 1:
        half = (failing + passing) // 2
        failing, passing = (failing, half) if passes(members(half)) else (half, passing)
    selection = members(passing)
    size = len(selection)
    while size := size // 2:
        for end in range(len(selection), 0, -size):
            rest = selection[: max(end - size, 0)] + selection[end:]
            if rest and passes(rest):
                selection = rest
    return selection


def _calibrate(
    make_converter: Callable[[], tf.lite.TFLiteConverter], representative_dataset: RepresentativeDataset
) -> tuple[bytes, dict[str, float]]:
    """Return the calibrated graph, and the quantization error of each operator by the name of its output."""
    debugger = tf.lite.experimental.QuantizationDebugger
    options = tf.lite.experimental.QuantizationDebugOptions(
        layer_direct_compare_metrics={"normalized_error": compute_normalized_error}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The debugger uses a deprecated interpreter.
        calibration = debugger(converter=make_converter(), debug_dataset=representative_dataset)
        # Only a debugger that gets a file keeps the tensors that it compares; others overwrite them.
        comparison = debugger(
            quant_debug_model_content=calibration.get_debug_quantized_model(),
            debug_dataset=representative_dataset,
            debug_options=options,
        )
        comparison.run()
    operators = _list_consumers(calibration.calibrated_model)
    errors = {}
    for name, statistics in comparison.layer_statistics.items():
        # The name is NumericVerify/<tensor>:<position>, and <tensor> is the name of the operator with one more digit.
        operator = name.removeprefix("NumericVerify/").rpartition(":")[0][:-1]
        if operator in operators:
            errors[operator] = float(statistics["normalized_error"])
    return calibration.calibrated_model, errors


def compute_normalized_error(float_values: np.ndarray, quantized: np.ndarray, scale: float, zero_point: int) -> float:
    """Compute the fraction of the signal power that quantization loses, 0 to 1, mean over the channels.

    Args:
        float_values: (..., channels). Values before quantization.
        quantized: (..., channels). Quantized values.
        scale: float. Quantization scale.
        zero_point: int. Quantized value of 0.

    Examples:
        >>> compute_normalized_error(np.array([[1.0, 2.0]]), np.array([[1, 1]]), 1.0, 0)
        0.125
    """
    values = float_values.reshape(-1, float_values.shape[-1]).astype(np.float64)
    errors = values - scale * (quantized.reshape(values.shape).astype(np.float64) - zero_point)
    power = (values**2).mean(0)
    return float(np.minimum((errors**2).mean(0) / np.where(power, power, 1), 1).mean())


def _list_consumers(content: bytes) -> dict[str, list[str]]:
    """Return the consumers of each operator; operators have the name of their first output."""
    _, graph, parsed = litert.parse_operators(content)
    operators = [operator for operator, _ in parsed]
    names = [graph.Tensors(operator.Outputs(0)).Name().decode() for operator in operators]
    consumers_of_tensor: dict[Any, list[str]] = {}
    for operator, name in zip(operators, names, strict=True):
        for tensor in operator.InputsAsNumpy():
            consumers_of_tensor.setdefault(tensor, []).append(name)
    return {
        name: consumers_of_tensor.get(operator.Outputs(0), []) for operator, name in zip(operators, names, strict=True)
    }
