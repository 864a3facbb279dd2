"""ONNX file, for ONNX Runtime, OpenVINO and other runtimes."""

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
    """`model.onnx`: prepared inputs, such as images (batch, height, width, channels) with values 0 to 255 -> scores.

    The batch size is free. Keras writes the file, ONNX Runtime reads it (pip install 'tfx_finetune[onnx]').
    """
    require_packages("onnx", "onnx", "onnxruntime", "tf2onnx")
    return Export("onnx", "model.onnx", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Save the servable model.

    Raises:
        UserError: If ONNX lacks an operator of the model.
    """
    for layer in servable.model.layers:
        if isinstance(layer, keras.layers.Normalization):
            # Tensors would become inputs of the file; arrays become constants.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    # Keras requires the signature of a model that was loaded but not called.
    signature = {
        name: keras.InputSpec(tensor.dtype, (None, *tensor.shape[1:]), name=name)
        for name, tensor in servable.model.input.items()
    }
    with files.write_atomically(path) as draft, capture_output():
        try:
            servable.model.export(str(draft), format="onnx", verbose=False, input_signature=[signature])
            _replace_erfc(draft)
        except (ValueError, RuntimeError, KeyError) as error:
            hint = "leave out this export, or use another backbone"
            raise UserError("ONNX cannot represent this model", got=first_line(error), hint=hint) from None


def _replace_erfc(path: Path) -> None:
    """Replace erfc(x), which TensorFlow uses for GELU and ONNX lacks, by 1 - erf(x)."""
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
    """Open an ONNX file.

    Raises:
        UserError: If it is not a readable ONNX file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = hardware.detect().threads, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each failure has its own exception type, which the package does not export
        raise UserError("The ONNX file is not readable", got=f"{path} ({first_line(error)})") from None
    dtypes = {node.name: np.int32 if node.type == "tensor(int32)" else np.float32 for node in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]

    def predict(inputs: Batch) -> Batch:
        arrays = {name: np.asarray(values, dtypes[name]) for name, values in inputs.items()}
        return dict(zip(names, session.run(names, arrays), strict=True))

    return LoadedModel(predict)
