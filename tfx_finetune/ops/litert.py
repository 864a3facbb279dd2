"""Keras model -> LiteRT file -> interpreter: what the TFLite export and the trunk engine share."""

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
    """Traces a function and folds its weights into the graph as constants.

    A converter that is given the function of a Keras 3 model as it is writes a file without weights, whose outputs
    are not numbers, and reports no error.
    """
    with capture_output():
        return convert_variables_to_constants_v2(tf.function(run, autograph=False).get_concrete_function(*inputs))


def convert(make_converter: Callable[[], tf.lite.TFLiteConverter]) -> bytes:
    """Makes a converter and runs it; see `quietly`."""
    try:
        return run_quietly(lambda: make_converter().convert())
    finally:
        # Graphs and their constants hold one another: without this, those of a large model stay until memory ends.
        gc.collect()


def run_quietly(function: Callable[[], Result]) -> Result:
    """Runs what converts, its chatter kept from the terminal.

    Raises:
        RuntimeError: The converter cannot take the graph; the message is the converter's own.
    """
    with capture_output() as said:
        try:
            return function()
        except Exception as error:
            # It raises types of its own, of MLIR and of NumPy alike.
            message = (str(error).strip() or said() or type(error).__name__).splitlines()[0]
            raise RuntimeError(message) from error


def open_interpreter(content: bytes, threads: int) -> Interpreter:
    """Opens a file's content, ready to run.

    Raises:
        ValueError, RuntimeError: It is not a LiteRT file, or wants operators that are not builtin.
    """
    with capture_output():
        found = Interpreter(model_content=content, num_threads=threads)
        found.allocate_tensors()
    return found


def read_input_names(content: bytes) -> list[str]:
    """Names of the inputs of a file's signature, in the order in which they lie in it."""
    found = open_interpreter(content, 1).get_signature_runner("serving_default").get_input_details()
    return sorted(found, key=lambda name: found[name]["index"])


def parse_operators(content: bytes) -> tuple[Any, Any, list[tuple[Any, int]]]:
    """A file's model and graph, as the schema's classes read them, and its operators with their kinds, in order."""
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    found = [graph.Operators(position) for position in range(graph.OperatorsLength())]
    codes = [model.OperatorCodes(call.OpcodeIndex()) for call in found]
    return (
        model,
        graph,
        [
            (call, max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
            for call, code in zip(found, codes, strict=True)
        ],
    )


def parse_layer_name(name: str) -> str:
    """The layer that an operator belongs to, of its name, such as `model/conv_1/convolution;model/relu_1/Relu`."""
    return "/".join(name.strip(";").split(";")[0].split("/")[1:-1]) or name


def summarize_operators(content: bytes) -> tuple[int, list[str]]:
    """How many operators a file has that compute, and the names of those that give floats."""
    kinds, types = schema.BuiltinOperator, schema.TensorType
    _, graph, found = parse_operators(content)
    computing = [call for call, kind in found if kind not in (kinds.QUANTIZE, kinds.DEQUANTIZE)]
    floats = [c for c in computing if graph.Tensors(c.Outputs(0)).Type() in (types.FLOAT32, types.FLOAT16)]
    return len(computing), [graph.Tensors(call.Outputs(0)).Name().decode() for call in floats]


def read_kernels(content: bytes) -> list[np.ndarray]:
    """Kernels of a file's convolutions and dense layers as they are stored, output channels first."""
    operators = schema.BuiltinOperator
    model, graph, every = parse_operators(content)
    # A kernel of float16 is made float32 by an operation before its use.
    sources = {call.Outputs(0): call.Inputs(0) for call, kind in every if kind == operators.DEQUANTIZE}
    found = []
    for call, kind in every:
        if kind in (operators.CONV_2D, operators.FULLY_CONNECTED):
            values = read_constant(model, graph, sources.get(call.Inputs(1), call.Inputs(1)))
            if values is not None:
                found.append(values)
    return found


def read_constant(model: Any, graph: Any, index: int) -> np.ndarray | None:
    """The values of a tensor that a file holds as float32, float16 or int8; None for any other tensor."""
    types = schema.TensorType
    stored = {types.FLOAT32: np.float32, types.FLOAT16: np.float16, types.INT8: np.int8}
    tensor = graph.Tensors(index)
    values = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(values, np.ndarray) or tensor.Type() not in stored:
        return None
    return values.view(stored[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
