"""OpenVINO model, for Intel processors and graphics and the other targets of its runtime."""

import json
import re
import sys
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, hardware
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.core.extras import require_packages
from tfx_finetune.core.quiet import capture_output
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS
from tfx_finetune.types.deployment import Export, LoadedModel, Servable

Precision = Literal["float32", "float16"]

# Maximum difference of a probability; float16 keeps 11 bits of each weight.
_TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
_RT_INFO_KEY = "tfx_finetune"


@EXPORTS.register
def openvino(precision: Precision = "float32") -> Export:
    """`openvino/model.xml` and its weights `model.bin`, for OpenVINO (pip install 'tfx_finetune[openvino]').

    Prepared inputs, such as images (batch, height, width, channels) with values 0 to 255 -> scores. The batch size is
    free. The section `tfx_finetune` of rt_info contains the labels of each head as JSON, and name, version, author and
    license from `--metadata`.

    Args:
        precision: Type of the stored weights: `float32`, or `float16` with half the size. Default `float32`.
    """
    require_packages("openvino", "openvino")
    name = "openvino" if precision == "float32" else f"openvino_{precision}"

    def write(servable: Servable, path: Path) -> None:
        model = _convert_model(servable)
        for key, text in {**servable.metadata, "labels": json.dumps(servable.labels, ensure_ascii=False)}.items():
            model.set_rt_info(text, [_RT_INFO_KEY, key])
        with files.write_atomically(path) as draft:
            draft.mkdir()
            _import_openvino().save_model(model, draft / "model.xml", compress_to_fp16=precision == "float16")

    # Kernels are not checked for compression, because OpenVINO multiplies the normalization of images into the first
    # kernel, which removes its clusters.
    return Export(name, name, write, load, _TOLERANCES[precision], quantized=False)


def load(path: Path) -> LoadedModel:
    """Open the folder of an OpenVINO model.

    Raises:
        UserError: If it is not a readable OpenVINO model.
    """
    # On processors with bfloat16 units, OpenVINO computes in bfloat16 by default, which would hide the precision of the
    # file.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": hardware.detect().threads}
    try:
        with capture_output():
            model = _import_openvino().Core().compile_model(path / "model.xml", "CPU", options)
        names = [output.get_any_name() for output in model.outputs]
        dtypes = {node.get_any_name(): node.element_type.to_dtype() for node in model.inputs}
    except RuntimeError as error:
        # The first lines of the message are positions in the code of OpenVINO, the last one is the error.
        reason = str(error).strip().rpartition("\n")[2][:200]
        raise UserError("The OpenVINO model is not readable", got=f"{path} ({reason})") from None

    def predict(inputs: Batch) -> Batch:
        arrays = {name: np.asarray(values, dtypes[name]) for name, values in inputs.items()}
        return dict(zip(names, model(arrays).to_tuple(), strict=True))

    return LoadedModel(predict)


def _convert_model(servable: Servable) -> Any:
    """Convert the servable model to OpenVINO.

    Raises:
        UserError: If OpenVINO lacks an operator of the model.
    """
    names = list(servable.input_specs)
    specs = [tf.TensorSpec([None, *shape], dtype, name=name) for name, (shape, dtype) in servable.input_specs.items()]
    run = tf.function(
        lambda *each: servable.model(dict(zip(names, each, strict=True)), training=False), autograph=False
    )
    with capture_output():
        try:
            model = _get_converter()(run.get_concrete_function(*specs))
        except Exception as error:  # each failure has its own exception type
            hint = "leave out this export, or use another backbone"
            missing = re.search(r"(?:operations|failed for): (.+)", str(error))
            got = f"operators that OpenVINO lacks ({missing[1]})" if missing else first_line(error)
            raise UserError("OpenVINO cannot represent this model", got=got, hint=hint) from None
    for name, node in zip(names, model.inputs, strict=True):
        node.set_names({name})
    return model


def _get_converter() -> Any:
    library = _import_openvino()
    # OpenVINO 2026.4 reads the version of TensorFlow by `exec` in a function, which since Python 3.13 does not define
    # local names (PEP 667).
    if sys.version_info >= (3, 13):
        from openvino.frontend.tensorflow import utils

        utils.get_environment_setup = lambda framework: {"tensorflow": tf.__version__}
    return library.convert_model


def _import_openvino() -> Any:
    # Without its telemetry module, OpenVINO does not report its use over the network on import.
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino
