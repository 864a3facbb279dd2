"""Requests of the REST protocol of TensorFlow Serving (https://www.tensorflow.org/tfx/serving/api_rest).

predict   {"instances": [{"b64": ...}, ...]}             ->  {"predictions": [...]}      row format
          {"inputs": {"image": [{"b64": ...}, ...]}}     ->  {"outputs": {...}}          column format
          with "signature_name": "tensor": preprocessed samples as nested lists of numbers
          with "signature_name": "detect": {"image": {"b64": ...}, "score_threshold": 0.5, "iou_threshold": 0.6,
          "max_detections": 10}, detection thresholds for each image
classify  {"examples": [{"image": {"b64": ...}}, ...]}   ->  {"result": [[[label, score], ...], ...]}

A model with several inputs takes objects, {"image": {"b64": ...}, "text": "a fox"}. Inputs may be missing; in column
format, null marks a missing input. Text may be written without base64. Detection and segmentation heads return boxes
in fractions of the image with scores and labels, or a mask of class indices.
"""

import base64
import binascii
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfx_finetune.bundle.inputs import UnreadableError
from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.ops.image import read_image_size
from tfx_finetune.serve.batching import count_rows
from tfx_finetune.serve.model_version import ModelVersion
from tfx_finetune.serve.responses import PREPARED, RAW, WITH_NMS_INPUTS, format_outputs
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK


class RequestError(UserError):
    """Error in a request; the client receives its text with status 400."""


ParsedRequest = tuple[Batch, Callable[[Batch], dict[str, Any]]]
"""(preprocessed inputs (n, ...), function from the model's outputs to the response)."""


def count_samples(message: Any) -> int:
    """Return the number of samples in a message without validating them; at least 1.

    Args:
        message: Decoded JSON.

    Examples:
        >>> count_samples({"inputs": {"image": [1, 2, 3]}})
        3
    """
    if not isinstance(message, dict):
        return 1
    samples = message.get("instances") or message.get("examples") or message.get("inputs")
    if isinstance(samples, dict):
        samples = next(iter(samples.values()), None)
    return max(len(samples), 1) if isinstance(samples, list) else 1


def parse_predict_request(message: Any, model_version: ModelVersion) -> ParsedRequest:
    """Parse a request of the method `predict`.

    Args:
        message: Decoded JSON.
        model_version: Model that is served.

    Raises:
        RequestError: If the message is invalid or a sample cannot be read.
    """
    _check_keys(message, "signature_name", "instances", "inputs")
    signature = message.get("signature_name") or RAW
    signatures = (RAW, PREPARED, WITH_NMS_INPUTS) if model_version.nms_inputs else (RAW, PREPARED)
    if signature not in signatures:
        raise RequestError("Unknown signature_name", got=_shorten(signature), expected=signatures)
    nms_dtypes = model_version.nms_inputs if signature == WITH_NMS_INPUTS else {}
    if ("instances" in message) == ("inputs" in message):
        raise RequestError("A request has either instances (row format) or inputs (column format)")
    if "instances" in message:
        instances = _check_list(message["instances"], "instances")
        samples = [_parse_sample(sample, model_version, nms_dtypes) for sample in instances]
    else:
        samples = _parse_columns(message["inputs"], model_version, nms_dtypes)
    nms_inputs = {name: _parse_nms_input(samples, name, dtype) for name, dtype in nms_dtypes.items()}
    samples = [{name: value for name, value in sample.items() if name not in nms_dtypes} for sample in samples]
    contents = _decode_contents(samples, model_version) if signature != PREPARED else []
    inputs = _preprocess(contents, model_version) if signature != PREPARED else _parse_prepared(samples, model_version)

    def make_response(outputs: Batch) -> dict[str, Any]:
        columns: dict[str, Any] = dict(outputs)
        if signature != PREPARED:
            image_sizes = _read_image_sizes(contents, model_version)
            columns = format_outputs(outputs, model_version, image_sizes, nms_inputs)
        if len(columns) == 1:
            (only_column,) = columns.values()
            return {"outputs" if "inputs" in message else "predictions": only_column}
        if "inputs" in message:
            return {"outputs": columns}
        rows = range(count_rows(inputs))
        return {"predictions": [{name: column[row] for name, column in columns.items()} for row in rows]}

    return inputs, make_response


def parse_classify_request(message: Any, model_version: ModelVersion) -> ParsedRequest:
    """Parse a request of the method `classify`; its `signature_name` selects the head of a model with several heads.

    Args:
        message: Decoded JSON.
        model_version: Model that is served.

    Raises:
        RequestError: If the message is invalid or a sample cannot be read.
    """
    _check_keys(message, "signature_name", "context", "examples")
    heads = list(model_version.labels)
    if not heads:
        raise RequestError("The model has no classification head", hint="Use the method predict")
    signature = message.get("signature_name")
    head = signature or heads[0]
    if head not in heads or ("signature_name" not in message and len(heads) > 1):
        raise RequestError("signature_name is not the name of a head", got=_shorten(signature), expected=heads)
    examples = _check_list(message.get("examples"), "examples")
    # The context contains inputs that all examples share.
    context = message.get("context") or {}
    if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
        raise RequestError("context and every example are objects", expected=model_version.modalities)
    samples = [_parse_sample(context | example, model_version) for example in examples]
    inputs = _preprocess(_decode_contents(samples, model_version), model_version)

    def make_response(outputs: Batch) -> dict[str, Any]:
        names = model_version.labels[head]
        scores = outputs[f"{head}/scores"]
        return {"result": [[[names[i], row[i]] for i in np.argsort(-row, kind="stable")] for row in scores]}

    return inputs, make_response


REQUEST_PARSERS = {"predict": parse_predict_request, "classify": parse_classify_request}
"""Parser of the requests of each method."""


def _read_image_sizes(contents: Sequence[Mapping[str, bytes]], model_version: ModelVersion) -> dict[str, np.ndarray]:
    """Return heights and widths of the images that detection and segmentation heads see, by tower, int (n, 2)."""
    towers = [
        tower
        for tower, modality in model_version.modalities.items()
        if model_version.postprocess_fns and modality.letterbox
    ]
    return {tower: np.array([read_image_size(sample[tower]) for sample in contents]) for tower in towers}


def _check_keys(message: Any, *keys: str) -> None:
    """Check that a message is an object with valid keys."""
    if not isinstance(message, dict):
        raise RequestError("A request is a JSON object", got=_shorten(message))
    if unknown := sorted(set(message) - set(keys)):
        raise RequestError("Unknown key", got=_shorten(unknown[0]), expected=keys)


def _check_list(value: Any, name: str) -> list[Any]:
    """Check that a value is a list with at least one item and return it."""
    if not isinstance(value, list) or not value:
        raise RequestError(f"{name} is not a list with at least one item", got=_shorten(value))
    return value


def _parse_sample(sample: Any, model_version: ModelVersion, nms_inputs: Collection[str] = ()) -> dict[str, Any]:
    """Return the inputs and detection thresholds of a sample by name; a model with one input needs no name."""
    names = [*model_version.modalities, *nms_inputs]
    if not isinstance(sample, dict) or "b64" in sample:
        if len(names) > 1:
            raise RequestError("A sample is an object of named inputs", got=_shorten(sample), expected=names)
        return {names[0]: sample}
    if not sample or not set(sample) <= set(names):
        raise RequestError("A sample has invalid inputs", got=_shorten(list(sample)), expected=names)
    return sample


def _parse_nms_input(samples: Sequence[Mapping[str, Any]], name: str, dtype: str) -> np.ndarray:
    """Return one detection threshold of each sample, (n,)."""
    values = [sample.get(name) for sample in samples]
    number_types = int if dtype == "int32" else (int, float)
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, number_types) or not 0 <= value < 2**31:
            kind = "an integer" if dtype == "int32" else "a number"
            raise RequestError(f"Invalid {name} of sample {index}", got=_shorten(value), expected=f"{kind} >= 0")
    return np.array(values, dtype)


def _parse_columns(inputs: Any, model_version: ModelVersion, nms_inputs: Collection[str]) -> list[dict[str, Any]]:
    """Return the samples of a request in column format."""
    columns = {
        name: _check_list(values, "inputs") for name, values in _parse_sample(inputs, model_version, nms_inputs).items()
    }
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise RequestError("inputs have different lengths", got=sorted(lengths))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _decode_contents(samples: Sequence[Mapping[str, Any]], model_version: ModelVersion) -> list[dict[str, bytes]]:
    """Return the encoded files or texts of each sample by tower."""
    return [
        {
            tower: _decode_content(value, f"sample {index}", model_version.modalities[tower].inline)
            for tower, value in sample.items()
            if value is not None
        }
        for index, sample in enumerate(samples)
    ]


def _preprocess(contents: Sequence[Mapping[str, bytes]], model_version: ModelVersion) -> Batch:
    """Return the preprocessed inputs of encoded samples."""
    prepared = []
    for index, sample in enumerate(contents):
        try:
            prepared.append(model_version.preprocess(sample))
        except UnreadableError as error:
            raise RequestError(f"Cannot read sample {index}", got=error) from None
    return concatenate(prepared)


def _decode_content(value: Any, name: str, is_inline: bool) -> bytes:
    """Return the bytes of a base64 object, or of a text if the modality allows text without base64."""
    if is_inline and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or not isinstance(value.get("b64"), str):
        raise RequestError(f"Invalid content of {name}", got=_shorten(value), expected='{"b64": "the file in base64"}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise RequestError(f"The content of {name} is not base64", got=error) from None


def _parse_prepared(samples: Sequence[Mapping[str, Any]], model_version: ModelVersion) -> Batch:
    """Return preprocessed inputs as arrays; missing inputs are zero."""
    inputs = {}
    for tower, modality in model_version.modalities.items():
        values = [sample.get(tower) for sample in samples]
        filled_values = [np.zeros(modality.shape) if value is None else value for value in values]
        try:
            array = np.asarray(filled_values, np.float32)
        except (ValueError, TypeError):
            raise RequestError(f"{tower} is not nested lists of numbers with one shape") from None
        if array.shape[1:] != modality.shape:
            raise RequestError(f"Invalid shape of {tower}", got=array.shape[1:], expected=str(modality.shape))
        if not np.isfinite(array).all():
            raise RequestError(f"{tower} has infinite values or NaN")
        inputs[tower] = array.astype(modality.input_dtype)
    if len(inputs) > 1:
        modality_mask = [[sample.get(tower) is not None for tower in inputs] for sample in samples]
        inputs[MODALITY_MASK] = np.array(modality_mask, np.float32)
    return inputs


def _shorten(value: Any) -> str:
    """Return the representation of a value, shortened to one line."""
    return reprlib.repr(value)
