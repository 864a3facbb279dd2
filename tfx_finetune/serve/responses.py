"""Responses of the REST protocol of TensorFlow Serving: outputs, model metadata and model status."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfx_finetune.serve.model_version import ModelVersion
from tfx_finetune.tasks.outputs import make_postprocess_fns, replace_outputs
from tfx_finetune.types.aliases import Batch

RAW, PREPARED, WITH_NMS_INPUTS = "serving_default", "tensor", "detect"
"""Signature names: encoded files, preprocessed samples, and encoded files with detection thresholds."""
_DTYPES = {"float32": "DT_FLOAT", "int32": "DT_INT32", "uint8": "DT_UINT8"}


def format_outputs(
    outputs: Batch,
    model_version: ModelVersion,
    image_sizes: Mapping[str, np.ndarray],
    nms_inputs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the outputs of the SavedModel's signatures: scores, labels and the best label, or boxes and masks.

    Args:
        outputs: Outputs of the model by name, (n, ...).
        model_version: Model that computed the outputs.
        image_sizes: Heights and widths of the images by tower, int (n, 2).
        nms_inputs: Detection thresholds of each sample by name, (n,). Default None: thresholds of the heads.
    """
    postprocess_fns = make_postprocess_fns(
        model_version.postprocess_fns, model_version.modalities, image_sizes, nms_inputs
    )
    replaced = replace_outputs(outputs, postprocess_fns)
    columns: dict[str, Any] = {name: np.asarray(values) for name, values in replaced.items()}
    for name in [f"{head}/labels" for head in model_version.postprocess_fns if f"{head}/labels" in columns]:
        columns[name] = [[label.decode() for label in row] for row in columns[name]]
    for head, classes in model_version.labels.items():
        scores = outputs[f"{head}/scores"]
        columns[f"{head}/labels"] = [classes] * len(scores)
        columns[f"{head}/best"] = [classes[index] for index in scores.argmax(-1)]
    return columns


def make_metadata(name: str, model_version: ModelVersion) -> dict[str, Any]:
    """Return the response of `/metadata`: names, types and shapes of the inputs and outputs of each signature.

    Args:
        name: Name of the model.
        model_version: Model that is served.
    """
    scores = _describe_outputs(model_version.example_outputs)
    outputs = _describe_outputs(format_outputs(model_version.example_outputs, model_version, {}))
    raw_inputs = {tower: _make_tensor_info("DT_STRING", -1) for tower in model_version.modalities}
    prepared_inputs = {
        tower: _make_tensor_info(_DTYPES[modality.input_dtype], -1, *modality.shape)
        for tower, modality in model_version.modalities.items()
    }
    signatures = {RAW: _make_signature(raw_inputs, outputs), PREPARED: _make_signature(prepared_inputs, scores)}
    if model_version.nms_inputs:
        thresholds = {
            threshold: _make_tensor_info(_DTYPES[dtype], -1) for threshold, dtype in model_version.nms_inputs.items()
        }
        signatures[WITH_NMS_INPUTS] = _make_signature(raw_inputs | thresholds, outputs)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(model_version.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def make_status(model_version: ModelVersion) -> dict[str, Any]:
    """Return the response of `/v1/models/NAME`: the state of the served version.

    Args:
        model_version: Model that is served.
    """
    state = {
        "version": str(model_version.version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    return {"model_version_status": [state]}


def _describe_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensor info of each output, (n, ...)."""
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return {
        name: _make_tensor_info(_DTYPES.get(str(array.dtype), "DT_STRING"), -1, *array.shape[1:])
        for name, array in arrays.items()
    }


def _make_signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Return a SignatureDef message as JSON."""
    return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}


def _make_tensor_info(dtype: str, *shape: int) -> dict[str, Any]:
    """Return a TensorInfo message as JSON."""
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}
