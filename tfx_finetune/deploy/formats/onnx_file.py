"""ONNX: for ONNX Runtime, OpenVINO, and what else reads it."""

from pathlib import Path

import keras
import numpy as np

from tfx_finetune.core import files, hardware
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import require_packages
from tfx_finetune.core.quiet import capture_output
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, LoadedModel, Servable


@EXPORTS.register
def onnx() -> Export:
    """`model.onnx`: prepared inputs, such as pictures, (batch, height, width, channels) floats of 0 to 255 -> scores.

    Any batch size. Written by Keras, read by ONNX Runtime (pip install 'tfx_finetune[onnx]').
    """
    require_packages("onnx", "onnx", "onnxruntime", "tf2onnx")
    return Export("onnx", "model.onnx", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Saves the servable model.

    Raises:
        UserError: The model has an operation that ONNX lacks.
    """
    for layer in servable.model.layers:
        if isinstance(layer, keras.layers.Normalization):
            # They are tensors, which would be inputs of the file; arrays are constants in it.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    # Keras asks for it of a model that was not called since it was read.
    signature = {
        name: keras.InputSpec(given.dtype, (None, *given.shape[1:]), name=name)
        for name, given in servable.model.input.items()
    }
    with files.write_atomically(path) as draft, capture_output():
        try:
            servable.model.export(str(draft), format="onnx", verbose=False, input_signature=[signature])
            _replace_erfc(draft)
        except (ValueError, RuntimeError, KeyError) as error:
            todo = "leave this export out, or take another backbone"
            raise UserError("ONNX cannot take this model", got=first_line(error), hint=todo) from None


def _replace_erfc(path: Path) -> None:
    """Puts 1 - erf(x) in the place of erfc(x), of which TensorFlow makes GELU and which ONNX lacks."""
    import onnx as library

    model, nodes = library.load(path), []
    for node in model.graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        one, erf = (f"{node.output[0]}/{name}" for name in ("one", "erf"))
        nodes.append(library.helper.make_node("Constant", [], [one], value_float=1.0))
        nodes.append(library.helper.make_node("Erf", node.input, [erf]))
        nodes.append(library.helper.make_node("Sub", [one, erf], node.output))
    if len(nodes) > len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        library.save(model, path)


def load(path: Path) -> LoadedModel:
    """Opens an ONNX file.

    Raises:
        UserError: It is not an ONNX file that can be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = hardware.detect().threads, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of failure is a type of its own, which the package does not name
        reason = first_line(error)
        raise UserError("not a readable ONNX file", got=f"{path} ({reason})") from None
    kinds = {given.name: np.int32 if given.type == "tensor(int32)" else np.float32 for given in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]

    def predict(inputs: Batch) -> Batch:
        fed = {name: np.asarray(values, kinds[name]) for name, values in inputs.items()}
        return dict(zip(names, session.run(names, fed), strict=True))

    return LoadedModel(predict)
