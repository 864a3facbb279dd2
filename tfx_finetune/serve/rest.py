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
from tfx_finetune.ops.arrays import joined
from tfx_finetune.serve.batching import size
from tfx_finetune.serve.model_version import Served
from tfx_finetune.tasks.outputs import found_in, instead
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import PRESENCE

RAW, PREPARED, LIMITED = "serving_default", "tensor", "detect"
"""Signatures: of encoded samples, of prepared ones, and of encoded ones with what counts in each."""


class RequestError(Exception):
    """What is wrong with a request, in one line, for the one who sent it."""


def count(message: Any) -> int:
    """How many samples a message has, before any of them is looked at."""
    if not isinstance(message, dict):
        return 1
    found = message.get("instances") or message.get("examples") or message.get("inputs")
    if isinstance(found, dict):
        found = next(iter(found.values()), None)
    return max(len(found), 1) if isinstance(found, list) else 1


def predict_request(message: Any, served: Served) -> tuple[Batch, Callable[[Batch], dict[str, Any]]]:
    """Reads a message of `:predict`.

    Args:
        message: What the JSON text held.
        served: Who answers.

    Returns:
        Prepared inputs (n, ...), and what makes the answer's message of their scores.

    Raises:
        RequestError: It is not such a message, or a sample cannot be read.
    """
    _known(message, "signature_name", "instances", "inputs")
    signature = message.get("signature_name") or RAW
    if signature not in (known := (RAW, PREPARED, LIMITED) if served.limits else (RAW, PREPARED)):
        raise RequestError(f"signature_name {_short(signature)} is unknown; allowed: {', '.join(known)}")
    limits = served.limits if signature == LIMITED else {}
    if ("instances" in message) == ("inputs" in message):
        raise RequestError("a prediction needs either instances (row by row) or inputs (column by column)")
    if "instances" in message:
        values = [_named(one, served, limits) for one in _list(message["instances"], "instances")]
    else:
        values = _rows(message["inputs"], served, limits)
    told = {name: _limit(values, name, kind) for name, kind in limits.items()}
    values = [{name: value for name, value in one.items() if name not in limits} for one in values]
    contents = _contents(values, served) if signature != PREPARED else []
    samples = _raw(contents, served) if signature != PREPARED else _numbers(values, served)

    def answer(scores: Batch) -> dict[str, Any]:
        outputs = _told(scores, served, _sizes(contents, served), told) if signature != PREPARED else scores
        columns: Any = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        if "inputs" in message:
            return {"outputs": columns}
        if len(outputs) == 1:
            return {"predictions": columns}
        return {
            "predictions": [{name: column[row] for name, column in outputs.items()} for row in range(size(samples))]
        }

    return samples, answer


def classify_request(message: Any, served: Served) -> tuple[Batch, Callable[[Batch], dict[str, Any]]]:
    """Reads a message of `:classify`; `signature_name` is the head, where there are several. See `predict_request`."""
    _known(message, "signature_name", "context", "examples")
    heads = list(served.labels)
    if not heads:
        raise RequestError("the model has no classes of whole samples; allowed: :predict")
    head = message.get("signature_name") or heads[0]
    if head not in heads or ("signature_name" not in message and len(heads) > 1):
        raise RequestError(f"signature_name {_short(message.get('signature_name'))} is no head; allowed: {heads}")
    examples = _list(message.get("examples"), "examples")
    # A context holds the features that all examples share.
    context = message.get("context") or {}
    if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
        raise RequestError(f"context and examples are objects of features such as {next(iter(served.modalities))}")
    samples = _raw(_contents([_named(context | example, served) for example in examples], served), served)

    def answer(scores: Batch) -> dict[str, Any]:
        names = served.labels[head]
        rows = scores[f"{head}/scores"]
        return {"result": [[[names[i], row[i]] for i in np.argsort(-row, kind="stable")] for row in rows]}

    return samples, answer


def _told(
    scores: Batch, served: Served, sizes: Mapping[str, np.ndarray], limits: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """What the SavedModel gives: scores with the labels in their order and the best one, or what is found in pictures.

    Args:
        scores: Outputs by name, (n, ...).
        served: Who gave them.
        sizes: Heights and widths of pictures by tower, (n, 2).
        limits: What counts in each sample in place of the heads' own, (n,) by name.
    """
    told = instead(scores, found_in(served.found, served.modalities, sizes, limits))
    found: dict[str, Any] = {name: np.asarray(values) for name, values in told.items()}
    for name in [f"{head}/labels" for head in served.found if f"{head}/labels" in found]:
        found[name] = [[label.decode() for label in row] for row in found[name]]
    for head, names in served.labels.items():
        rows = scores[f"{head}/scores"]
        found[f"{head}/labels"] = [names] * len(rows)
        found[f"{head}/best"] = [names[i] for i in rows.argmax(-1)]
    return found


def metadata(name: str, served: Served) -> dict[str, Any]:
    """The message of `/metadata`: names, types and shapes of what goes in and comes out."""
    scores = _described(served.golden)
    told = _described(_told(served.golden, served, {}))
    raw = {tower: _tensor("DT_STRING", -1) for tower in served.modalities}
    prepared = {
        tower: _tensor(_TYPES[modality.fed], -1, *modality.shape) for tower, modality in served.modalities.items()
    }
    signatures = {RAW: _signature(raw, told), PREPARED: _signature(prepared, scores)}
    if served.limits:
        limits = {name: _tensor(_TYPES[kind], -1) for name, kind in served.limits.items()}
        signatures[LIMITED] = _signature(raw | limits, told)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(served.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def status(served: Served) -> dict[str, Any]:
    """The message of a model's own address."""
    state = {"version": str(served.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [state]}


_TYPES = {"float32": "DT_FLOAT", "int32": "DT_INT32", "uint8": "DT_UINT8"}
METHODS = {"predict": predict_request, "classify": classify_request}
"""What reads the messages of each method."""


def _described(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Type and shape of each output, (n, ...)."""
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return {name: _tensor(_TYPES.get(str(x.dtype), "DT_STRING"), -1, *x.shape[1:]) for name, x in arrays.items()}


def _sizes(contents: Sequence[Mapping[str, bytes]], served: Served) -> dict[str, np.ndarray]:
    """Heights and widths of the pictures in which something is to be found, by tower, (n, 2)."""
    towers = [tower for tower, modality in served.modalities.items() if served.found and modality.lay]
    return {tower: np.array([exif.size(sample[tower]) for sample in contents]) for tower in towers}


def _signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}


def _known(message: Any, *keys: str) -> None:
    if not isinstance(message, dict):
        raise RequestError(f"a request is a JSON object; received: {_short(message)}")
    if unknown := sorted(set(message) - set(keys)):
        raise RequestError(f"{_short(unknown[0])} is unknown; allowed: {', '.join(keys)}")


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"{name} is a list of at least one; received: {_short(value)}")
    return value


def _named(given: Any, served: Served, limits: Collection[str] = ()) -> dict[str, Any]:
    """A sample's values by tower, and its limits; the value may stand alone where there is one."""
    towers = [*served.modalities, *limits]
    if not isinstance(given, dict) or "b64" in given:
        if len(towers) > 1:
            raise RequestError(f"a sample is an object of some of {towers}; received: {_short(given)}")
        return {towers[0]: given}
    if not given or not set(given) <= set(towers):
        raise RequestError(f"a sample has the inputs {', '.join(towers)}; received: {_short(list(given))}")
    return given


def _limit(samples: Sequence[Mapping[str, Any]], name: str, kind: str) -> np.ndarray:
    """What counts in each sample, (n,)."""
    values = [sample.get(name) for sample in samples]
    numbers = int if kind == "int32" else (int, float)
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, numbers) or not 0 <= value < 2**31:
            wanted = "a whole number" if kind == "int32" else "a number"
            raise RequestError(f"{name} of sample {position} is {_short(value)}; allowed: {wanted} of 0 or more")
    return np.array(values, kind)


def _rows(given: Any, served: Served, limits: Collection[str]) -> list[dict[str, Any]]:
    """Samples that came column by column."""
    columns = {tower: _list(values, "inputs") for tower, values in _named(given, served, limits).items()}
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise RequestError(f"inputs are columns of one length; received: {sorted(lengths)}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _contents(samples: Sequence[Mapping[str, Any]], served: Served) -> list[dict[str, bytes]]:
    """What a message has of each sample, by tower."""
    return [
        {
            tower: _content(value, f"sample {position}", served.modalities[tower].inline)
            for tower, value in sample.items()
            if value is not None
        }
        for position, sample in enumerate(samples)
    ]


def _raw(contents: Sequence[Mapping[str, bytes]], served: Served) -> Batch:
    """Encoded samples, prepared."""
    prepared = []
    for position, sample in enumerate(contents):
        try:
            prepared.append(served.prepare(sample))
        except UnreadableError as error:
            raise RequestError(f"sample {position} cannot be read: {error}") from None
    return joined(prepared)


def _content(value: Any, which: str, inline: bool) -> bytes:
    if inline and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or not isinstance(value.get("b64"), str):
        raise RequestError(f'{which} is {_short(value)}; allowed: {{"b64": "the file, base64"}}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise RequestError(f"{which} is not base64 ({error})") from None


def _numbers(samples: Sequence[Mapping[str, Any]], served: Served) -> Batch:
    """Prepared samples; what one goes without is zeros."""
    inputs = {}
    for tower, modality in served.modalities.items():
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
        inputs[tower] = found.astype(modality.fed)
    if len(inputs) > 1:
        there = [[sample.get(tower) is not None for tower in inputs] for sample in samples]
        inputs[PRESENCE] = np.array(there, np.float32)
    return inputs


def _short(value: Any) -> str:
    """What was received, short enough for a line."""
    return reprlib.repr(value)
