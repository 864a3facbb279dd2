"""A TFLite file of what it can take, and the towers that it cannot take beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.deploy.formats import saved_model, tflite
from tfx_finetune.ops import litert
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS, Modality
from tfx_finetune.types.deployment import Export, LoadedModel, Servable

_TFLITE_FILE, _TOWERS_FILE = "model.tflite", "towers.json"


@EXPORTS.register
def split() -> Export:
    """`model_split/`, for models of which TFLite can take a part: `model.tflite`, whose inputs are prepared samples of
    the towers that it can take and, by the names of the others, their features; `<tower>/`, a SavedModel of each of
    these, prepared input (batch, ...) -> `features` (batch, ...); and `towers.json`, which says why they are not in it.

    It takes the place of a `tflite()` that cannot be written of a model of several towers.
    """
    return Export("tflite_split", "model_split", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Writes the folder.

    Raises:
        UserError: TFLite lacks an operator of what stands on the towers.
    """
    trunks = {tower: keras.Model(servable.model.input[tower], end) for tower, end in servable.tower_outputs.items()}
    outside = {tower: reason for tower, trunk in trunks.items() if (reason := _find_conversion_error(trunk))}
    rest = _replace_towers_by_features(servable, {tower: trunks[tower] for tower in outside})
    content = tflite.convert(rest, "tflite_split", "none", "float32", "float32")
    with files.write_atomically(path) as draft:
        draft.mkdir()
        (draft / _TFLITE_FILE).write_bytes(tflite.add_metadata(rest, content))
        for tower in outside:
            _save_tower(trunks[tower], draft / tower)
        (draft / _TOWERS_FILE).write_text(json.dumps(outside, indent=2), encoding="utf-8")


def load(path: Path) -> LoadedModel:
    """Opens such a folder.

    Raises:
        UserError: It is none.
    """
    try:
        outside = json.loads((path / _TOWERS_FILE).read_text(encoding="utf-8"))
        loaded = {tower: tf.saved_model.load(str(path / tower)) for tower in outside}
        specs = {
            tower: model.signatures["serving_default"].structured_input_signature[1] for tower, model in loaded.items()
        }
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = first_line(error)
        raise UserError("not a readable folder of split()", got=f"{path} ({reason})") from None
    rest = tflite.load(path / _TFLITE_FILE).predict

    def predict(inputs: Batch) -> Batch:
        features = {}
        for tower, model in loaded.items():
            ((name, spec),) = specs[tower].items()
            given = {name: tf.cast(inputs[tower], spec.dtype)}
            features[tower] = model.signatures["serving_default"](**given)["features"].numpy()
        return rest(inputs | features)

    return LoadedModel(predict)


def _find_conversion_error(trunk: keras.Model) -> str:
    """Why TFLite does not take a tower; empty where it does."""
    (source,) = trunk.inputs
    spec = tf.TensorSpec([1, *source.shape[1:]], source.dtype)
    frozen = litert.freeze(lambda inputs: trunk(inputs, training=False), [spec])
    try:
        litert.open_interpreter(litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen])), 1)
    except (RuntimeError, ValueError) as error:
        return tflite.describe_conversion_error(error)
    return ""


def _replace_towers_by_features(servable: Servable, trunks: dict[str, keras.Model]) -> Servable:
    """The servable that takes features in place of what these towers take."""
    if not trunks:
        return servable
    inputs = servable.model.input | {tower: trunk.output for tower, trunk in trunks.items()}
    features = {tower: _make_features_modality(tower, trunk.output_shape[1:]) for tower, trunk in trunks.items()}
    model = build_submodel(inputs, servable.model.output)
    return dataclasses.replace(servable, model=model, modalities=dict(servable.modalities) | features)


def _make_features_modality(tower: str, shape: tuple[int, ...]) -> Modality:
    """What a tower gives, as it is."""
    dtype = "float32"
    return Modality(tower, _identity, _identity, shape, lambda: np.zeros(shape, dtype), portable=False, dtype=dtype)


def _identity(x: Any) -> Any:
    return x


def _save_tower(trunk: keras.Model, path: Path) -> None:
    (source,) = trunk.inputs
    spec = tf.TensorSpec([None, *source.shape[1:]], source.dtype, name="inputs")
    features = saved_model.trace(lambda inputs: {"features": trunk(inputs, training=False)}, spec)
    saved_model.save(trunk, {"serving_default": features}, path)
