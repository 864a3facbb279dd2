"""OpenVINO: for processors and graphics of Intel, and what else its runtime runs on."""

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

# Largest difference of a probability; float16 keeps 11 bits of each weight.
_TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
_RT_INFO_KEY = "tfx_finetune"


@EXPORTS.register
def openvino(precision: Precision = "float32") -> Export:
    """`openvino/model.xml` and its weights beside it, `model.bin`, for OpenVINO's runtime; any batch size.

    Prepared inputs, such as pictures, (batch, height, width, channels) floats of 0 to 255 -> scores. The section
    `tfx_finetune` of its rt_info has the labels of each head, as JSON, and name, version, author and license of
    `--about`.
    Written and read by OpenVINO (pip install 'tfx_finetune[openvino]').

    Args:
        precision: Of the weights as they are stored, `float32` or `float16`, half the size.
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

    # OpenVINO multiplies a picture's normalization into the first kernel, which then has none of the values that
    # cluster() left there: kernels are not held against promises.
    return Export(name, name, write, load, _TOLERANCES[precision], quantized=False)


def load(path: Path) -> LoadedModel:
    """Opens the folder of an OpenVINO model.

    Raises:
        UserError: It is not an OpenVINO model that can be read.
    """
    # Where a processor has units for bfloat16, OpenVINO computes in it unless told otherwise; the file is judged by
    # what is in it.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": hardware.detect().threads}
    try:
        with capture_output():
            model = _import_openvino().Core().compile_model(path / "model.xml", "CPU", options)
        names = [output.get_any_name() for output in model.outputs]
        kinds = {given.get_any_name(): given.element_type.to_dtype() for given in model.inputs}
    except RuntimeError as error:
        # Its first lines say where in OpenVINO that was, the last one what it is.
        reason = str(error).strip().rpartition("\n")[2][:200]
        raise UserError("not a readable OpenVINO model", got=f"{path} ({reason})") from None

    def predict(inputs: Batch) -> Batch:
        fed = {name: np.asarray(values, kinds[name]) for name, values in inputs.items()}
        return dict(zip(names, model(fed).to_tuple(), strict=True))

    return LoadedModel(predict)


def _convert_model(servable: Servable) -> Any:
    """The servable model as OpenVINO's.

    Raises:
        UserError: The model has an operation that OpenVINO lacks.
    """
    names = list(servable.input_specs)
    specs = [tf.TensorSpec([None, *shape], kind, name=name) for name, (shape, kind) in servable.input_specs.items()]
    run = tf.function(
        lambda *each: servable.model(dict(zip(names, each, strict=True)), training=False), autograph=False
    )
    with capture_output():
        try:
            model = _get_converter()(run.get_concrete_function(*specs))
        except Exception as error:  # each kind of failure is a type of its own
            todo = "leave this export out, or take another backbone"
            missing = re.search(r"(?:operations|failed for): (.+)", str(error))
            received = f"operators that OpenVINO lacks ({missing[1]})" if missing else first_line(error)
            raise UserError("OpenVINO cannot take this model", got=received, hint=todo) from None
    for name, given in zip(names, model.inputs, strict=True):
        given.set_names({name})
    return model


def _get_converter() -> Any:
    library = _import_openvino()
    # OpenVINO 2026.4 asks for TensorFlow's version by `exec`, the names of which a function forgets since Python 3.13
    # (PEP 667).
    if sys.version_info >= (3, 13):
        from openvino.frontend.tensorflow import utils

        utils.get_environment_setup = lambda framework: {"tensorflow": tf.__version__}
    return library.convert_model


def _import_openvino() -> Any:
    # On import OpenVINO would tell its makers of its use, over the network, unless this module of it is missing.
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino
