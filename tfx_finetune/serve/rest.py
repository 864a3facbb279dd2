"""TensorFlow Serving's REST messages (https://www.tensorflow.org/tfx/serving/api_rest) <-> samples and scores.

predict   {"instances": [{"b64": ...}, ...]}             ->  {"predictions": [...]}      row by row
          {"inputs": {"image": [{"b64": ...}, ...]}}     ->  {"outputs": {...}}          column by column
          with "signature_name": "tensor": prepared samples as nested lists of numbers
          with "signature_name": "detect": {"image": {"b64": ...}, "score_threshold": 0.5, "iou_threshold": 0.6,
          "max_detections": 10}, a threshold a picture, of a head that finds objects
classify  {"examples": [{"image": {"b64": ...}}, ...]}   ->  {"result": [[[label, score], ...], ...]}

Of several inputs a sample is an object, {"image": {"b64": ...}, "text": "a fox"}; it may go without some of them, where
null stands column by column. Text may be written as it is. What a head finds in a picture stands in place of scores:
boxes in shares of the picture, their scores and labels, or the classes of its pixels.
"""

import base64
import binascii
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfx_finetune.bundle.bundle import UnreadableError
from tfx_finetune.ops import exif
from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.serve.batching import count_rows
from tfx_finetune.serve.model_version import ModelVersion
from tfx_finetune.tasks.outputs import make_postprocess_fns, replace_outputs
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK

RAW, PREPARED, WITH_NMS_INPUTS = "serving_default", "tensor", "detect"
"""Signatures: of encoded samples, of prepared ones, and of encoded ones with what counts in each."""


class RequestError(Exception):
    """What is wrong with a request, in one line, for the one who sent it."""


def count_samples(message: Any) -> int:
    """How many samples a message has, before any of them is looked at."""
    if not isinstance(message, dict):
        return 1
    found = message.get("instances") or message.get("examples") or message.get("inputs")
    if isinstance(found, dict):
        found = next(iter(found.values()), None)
    return max(len(found), 1) if isinstance(found, list) else 1


def parse_predict_request(message: Any, model_version: ModelVersion) -> tuple[Batch, Callable[[Batch], dict[str, Any]]]:
    """Reads a message of `:predict`.

    Args:
        message: What the JSON text held.
        served: Who answers.

    Returns:
        Prepared inputs (n, ...), and what makes the answer's message of their scores.

    Raises:
        RequestError: It is not such a message, or a sample cannot be read.
    """
    _check_keys(message, "signature_name", "instances", "inputs")
    signature = message.get("signature_name") or RAW
    if signature not in (known := (RAW, PREPARED, WITH_NMS_INPUTS) if model_version.nms_inputs else (RAW, PREPARED)):
        raise RequestError(f"signature_name {_shorten(signature)} is unknown; allowed: {', '.join(known)}")
    limits = model_version.nms_inputs if signature == WITH_NMS_INPUTS else {}
    if ("instances" in message) == ("inputs" in message):
        raise RequestError("a prediction needs either instances (row by row) or inputs (column by column)")
    if "instances" in message:
        values = [_parse_sample(one, model_version, limits) for one in _check_list(message["instances"], "instances")]
    else:
        values = _parse_columns(message["inputs"], model_version, limits)
    told = {name: _parse_nms_input(values, name, kind) for name, kind in limits.items()}
    values = [{name: value for name, value in one.items() if name not in limits} for one in values]
    contents = _decode_contents(values, model_version) if signature != PREPARED else []
    samples = _preprocess(contents, model_version) if signature != PREPARED else _parse_prepared(values, model_version)

    def answer(scores: Batch) -> dict[str, Any]:
        outputs = (
            _format_outputs(scores, model_version, _read_image_sizes(contents, model_version), told)
            if signature != PREPARED
            else scores
        )
        columns: Any = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        if "inputs" in message:
            return {"outputs": columns}
        if len(outputs) == 1:
            return {"predictions": columns}
        return {
            "predictions": [
                {name: column[row] for name, column in outputs.items()} for row in range(count_rows(samples))
            ]
        }

    return samples, answer


def parse_classify_request(
    message: Any, model_version: ModelVersion
) -> tuple[Batch, Callable[[Batch], dict[str, Any]]]:
    """Reads a message of `:classify`; `signature_name` is the head, where there are several. See `predict_request`."""
    _check_keys(message, "signature_name", "context", "examples")
    heads = list(model_version.labels)
    if not heads:
        raise RequestError("the model has no classes of whole samples; allowed: :predict")
    head = message.get("signature_name") or heads[0]
    if head not in heads or ("signature_name" not in message and len(heads) > 1):
        raise RequestError(f"signature_name {_shorten(message.get('signature_name'))} is no head; allowed: {heads}")
    examples = _check_list(message.get("examples"), "examples")
    # A context holds the features that all examples share.
    context = message.get("context") or {}
    if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
        raise RequestError(
            f"context and examples are objects of features such as {next(iter(model_version.modalities))}"
        )
    samples = _preprocess(
        _decode_contents([_parse_sample(context | example, model_version) for example in examples], model_version),
        model_version,
    )

    def answer(scores: Batch) -> dict[str, Any]:
        names = model_version.labels[head]
        rows = scores[f"{head}/scores"]
        return {"result": [[[names[i], row[i]] for i in np.argsort(-row, kind="stable")] for row in rows]}

    return samples, answer


def _format_outputs(
    scores: Batch,
    model_version: ModelVersion,
    sizes: Mapping[str, np.ndarray],
    nms_inputs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What the SavedModel gives: scores with the labels in their order and the best one, or what is found in pictures.

    Args:
        scores: Outputs by name, (n, ...).
        served: Who gave them.
        sizes: Heights and widths of pictures by tower, (n, 2).
        limits: What counts in each sample in place of the heads' own, (n,) by name.
    """
    told = replace_outputs(
        scores, make_postprocess_fns(model_version.postprocess_fns, model_version.modalities, sizes, nms_inputs)
    )
    found: dict[str, Any] = {name: np.asarray(values) for name, values in told.items()}
    for name in [f"{head}/labels" for head in model_version.postprocess_fns if f"{head}/labels" in found]:
        found[name] = [[label.decode() for label in row] for row in found[name]]
    for head, names in model_version.labels.items():
        rows = scores[f"{head}/scores"]
        found[f"{head}/labels"] = [names] * len(rows)
        found[f"{head}/best"] = [names[i] for i in rows.argmax(-1)]
    return found


def make_metadata(name: str, model_version: ModelVersion) -> dict[str, Any]:
    """The message of `/metadata`: names, types and shapes of what goes in and comes out."""
    scores = _describe_outputs(model_version.example_outputs)
    told = _describe_outputs(_format_outputs(model_version.example_outputs, model_version, {}))
    raw = {tower: _make_tensor_info("DT_STRING", -1) for tower in model_version.modalities}
    prepared = {
        tower: _make_tensor_info(_DTYPES[modality.input_dtype], -1, *modality.shape)
        for tower, modality in model_version.modalities.items()
    }
    signatures = {RAW: _make_signature(raw, told), PREPARED: _make_signature(prepared, scores)}
    if model_version.nms_inputs:
        limits = {name: _make_tensor_info(_DTYPES[kind], -1) for name, kind in model_version.nms_inputs.items()}
        signatures[WITH_NMS_INPUTS] = _make_signature(raw | limits, told)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(model_version.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def make_status(model_version: ModelVersion) -> dict[str, Any]:
    """The message of a model's own address."""
    state = {
        "version": str(model_version.version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    return {"model_version_status": [state]}


_DTYPES = {"float32": "DT_FLOAT", "int32": "DT_INT32", "uint8": "DT_UINT8"}
REQUEST_PARSERS = {"predict": parse_predict_request, "classify": parse_classify_request}
"""What reads the messages of each method."""


def _describe_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Type and shape of each output, (n, ...)."""
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return {
        name: _make_tensor_info(_DTYPES.get(str(x.dtype), "DT_STRING"), -1, *x.shape[1:]) for name, x in arrays.items()
    }


def _read_image_sizes(contents: Sequence[Mapping[str, bytes]], model_version: ModelVersion) -> dict[str, np.ndarray]:
    """Heights and widths of the pictures in which something is to be found, by tower, (n, 2)."""
    towers = [
        tower
        for tower, modality in model_version.modalities.items()
        if model_version.postprocess_fns and modality.letterbox
    ]
    return {tower: np.array([exif.read_image_size(sample[tower]) for sample in contents]) for tower in towers}


def _make_signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}


def _make_tensor_info(dtype: str, *shape: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}


def _check_keys(message: Any, *keys: str) -> None:
    if not isinstance(message, dict):
        raise RequestError(f"a request is a JSON object; received: {_shorten(message)}")
    if unknown := sorted(set(message) - set(keys)):
        raise RequestError(f"{_shorten(unknown[0])} is unknown; allowed: {', '.join(keys)}")


def _check_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"{name} is a list of at least one; received: {_shorten(value)}")
    return value


def _parse_sample(sample: Any, model_version: ModelVersion, nms_inputs: Collection[str] = ()) -> dict[str, Any]:
    """A sample's values by tower, and its limits; the value may stand alone where there is one."""
    towers = [*model_version.modalities, *nms_inputs]
    if not isinstance(sample, dict) or "b64" in sample:
        if len(towers) > 1:
            raise RequestError(f"a sample is an object of some of {towers}; received: {_shorten(sample)}")
        return {towers[0]: sample}
    if not sample or not set(sample) <= set(towers):
        raise RequestError(f"a sample has the inputs {', '.join(towers)}; received: {_shorten(list(sample))}")
    return sample


def _parse_nms_input(samples: Sequence[Mapping[str, Any]], name: str, kind: str) -> np.ndarray:
    """What counts in each sample, (n,)."""
    values = [sample.get(name) for sample in samples]
    numbers = int if kind == "int32" else (int, float)
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, numbers) or not 0 <= value < 2**31:
            wanted = "a whole number" if kind == "int32" else "a number"
            raise RequestError(f"{name} of sample {position} is {_shorten(value)}; allowed: {wanted} of 0 or more")
    return np.array(values, kind)


def _parse_columns(given: Any, model_version: ModelVersion, nms_inputs: Collection[str]) -> list[dict[str, Any]]:
    """Samples that came column by column."""
    columns = {
        tower: _check_list(values, "inputs")
        for tower, values in _parse_sample(given, model_version, nms_inputs).items()
    }
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise RequestError(f"inputs are columns of one length; received: {sorted(lengths)}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _decode_contents(samples: Sequence[Mapping[str, Any]], model_version: ModelVersion) -> list[dict[str, bytes]]:
    """What a message has of each sample, by tower."""
    return [
        {
            tower: _decode_content(value, f"sample {position}", model_version.modalities[tower].inline)
            for tower, value in sample.items()
            if value is not None
        }
        for position, sample in enumerate(samples)
    ]


def _preprocess(contents: Sequence[Mapping[str, bytes]], model_version: ModelVersion) -> Batch:
    """Encoded samples, prepared."""
    prepared = []
    for position, sample in enumerate(contents):
        try:
            prepared.append(model_version.preprocess(sample))
        except UnreadableError as error:
            raise RequestError(f"sample {position} cannot be read: {error}") from None
    return concatenate(prepared)


def _decode_content(value: Any, which: str, inline: bool) -> bytes:
    if inline and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or not isinstance(value.get("b64"), str):
        raise RequestError(f'{which} is {_shorten(value)}; allowed: {{"b64": "the file, base64"}}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise RequestError(f"{which} is not base64 ({error})") from None


def _parse_prepared(samples: Sequence[Mapping[str, Any]], model_version: ModelVersion) -> Batch:
    """Prepared samples; what one goes without is zeros."""
    inputs = {}
    for tower, modality in model_version.modalities.items():
        values = [sample.get(tower) for sample in samples]
        filled = [np.zeros(modality.shape) if value is None else value for value in values]
        try:
            found = np.asarray(filled, np.float32)
        except (ValueError, TypeError):
            raise RequestError(f"{tower} is not nested lists of numbers, all of one shape") from None
        if found.shape[1:] != modality.shape:
            raise RequestError(f"a sample has the shape {modality.shape}; received: {found.shape[1:]}")
        if not np.isfinite(found).all():
            raise RequestError(f"{tower} has numbers that are not finite")
        inputs[tower] = found.astype(modality.input_dtype)
    if len(inputs) > 1:
        there = [[sample.get(tower) is not None for tower in inputs] for sample in samples]
        inputs[MODALITY_MASK] = np.array(there, np.float32)
    return inputs


def _shorten(value: Any) -> str:
    """What was received, short enough for a line."""
    return reprlib.repr(value)
