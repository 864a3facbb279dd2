"""LiteRT (TFLite) files: conversion, interpreters, and inspection of operators and weights."""

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfx_finetune.core.quiet import capture_output

Result = TypeVar("Result")


def freeze(run: Callable[..., Any], inputs: Sequence[tf.TensorSpec]) -> Any:
    """Trace a function and turn its variables into constants of the graph.

    The converter writes a file without weights, and reports no error, for the function of a Keras 3 model that is not
    frozen; the outputs of that file are NaN.

    Args:
        run: Function of tensors.
        inputs: Specs of its arguments.

    Returns:
        Concrete function for `tf.lite.TFLiteConverter.from_concrete_functions`.
    """
    with capture_output():
        return convert_variables_to_constants_v2(tf.function(run, autograph=False).get_concrete_function(*inputs))


def convert(make_converter: Callable[[], tf.lite.TFLiteConverter]) -> bytes:
    """Make a converter and run it.

    Args:
        make_converter: Returns a configured converter.

    Returns:
        Content of the LiteRT file.

    Raises:
        RuntimeError: If the converter does not support the graph.
    """
    try:
        return run_quietly(lambda: make_converter().convert())
    finally:
        # Graphs and their constants reference each other: without a collection, those of large models fill the memory.
        gc.collect()


def run_quietly(function: Callable[[], Result]) -> Result:
    """Run a conversion and hide its output from the terminal.

    Args:
        function: The conversion.

    Raises:
        RuntimeError: If the conversion fails. The message is the first line of the converter's error.
    """
    with capture_output() as read_output:
        try:
            return function()
        except Exception as error:
            # Converters raise error types of their own, of MLIR and of NumPy.
            message = (str(error).strip() or read_output() or type(error).__name__).splitlines()[0]
            raise RuntimeError(message) from error


def open_interpreter(content: bytes, threads: int) -> Interpreter:
    """Create an interpreter with allocated tensors.

    Args:
        content: Content of a LiteRT file.
        threads: int >= 1. Number of CPU threads.

    Raises:
        ValueError, RuntimeError: If the content is not a LiteRT file or needs operators that are not builtin.
    """
    with capture_output():
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter


def read_input_names(content: bytes) -> list[str]:
    """Return the input names of a file's default signature, in the order of the tensor indices.

    Args:
        content: Content of a LiteRT file.
    """
    details = open_interpreter(content, 1).get_signature_runner("serving_default").get_input_details()
    return sorted(details, key=lambda name: details[name]["index"])


def parse_operators(content: bytes) -> tuple[Any, Any, list[tuple[Any, int]]]:
    """Parse the flatbuffer of a LiteRT file.

    Args:
        content: Content of a LiteRT file.

    Returns:
        The model, its first subgraph, and the operators of the subgraph in order with their `BuiltinOperator` codes.
    """
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    operators = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        operators.append((operator, max(code.BuiltinCode(), code.DeprecatedBuiltinCode())))
    return model, graph, operators


def parse_layer_name(name: str) -> str:
    """Extract the Keras layer from the name of an operator's output.

    Examples:
        >>> parse_layer_name("model/conv_1/convolution;model/relu_1/Relu")
        'conv_1'
    """
    return "/".join(name.strip(";").split(";")[0].split("/")[1:-1]) or name


def summarize_operators(content: bytes) -> tuple[int, list[str]]:
    """Count the operators of a file and list those in floating point.

    Args:
        content: Content of a LiteRT file.

    Returns:
        Number of operators other than QUANTIZE and DEQUANTIZE, and names of the float32 or float16 outputs of them.
    """
    codes, types = schema.BuiltinOperator, schema.TensorType
    _, graph, operators = parse_operators(content)
    tensors = [
        graph.Tensors(operator.Outputs(0))
        for operator, code in operators
        if code not in (codes.QUANTIZE, codes.DEQUANTIZE)
    ]
    float_names = [tensor.Name().decode() for tensor in tensors if tensor.Type() in (types.FLOAT32, types.FLOAT16)]
    return len(tensors), float_names


def read_kernels(content: bytes) -> list[np.ndarray]:
    """Read the kernels of all convolutions and dense layers as they are stored.

    Args:
        content: Content of a LiteRT file.

    Returns:
        float32, float16 or int8 arrays with the output channels first.
    """
    codes = schema.BuiltinOperator
    model, graph, operators = parse_operators(content)
    # A float16 kernel is converted to float32 by a DEQUANTIZE operator before its use.
    stored_tensors = {
        operator.Outputs(0): operator.Inputs(0) for operator, code in operators if code == codes.DEQUANTIZE
    }
    kernels = []
    for operator, code in operators:
        if code in (codes.CONV_2D, codes.FULLY_CONNECTED):
            index = operator.Inputs(1)
            kernel = read_constant(model, graph, stored_tensors.get(index, index))
            if kernel is not None:
                kernels.append(kernel)
    return kernels


def read_constant(model: Any, graph: Any, index: int) -> np.ndarray | None:
    """Read the values of a constant tensor.

    Args:
        model: Model of `parse_operators`.
        graph: Subgraph of `parse_operators`.
        index: int. Index of the tensor in the subgraph.

    Returns:
        float32, float16 or int8 array, or None if the tensor is not a constant of one of these types.
    """
    types = schema.TensorType
    dtypes = {types.FLOAT32: np.float32, types.FLOAT16: np.float16, types.INT8: np.int8}
    tensor = graph.Tensors(index)
    values = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(values, np.ndarray) or tensor.Type() not in dtypes:
        return None
    return values.view(dtypes[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
