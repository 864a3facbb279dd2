"""Model split into a TFLite file and SavedModels of the towers that TFLite cannot represent."""

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
from tfx_finetune.deploy.formats.tflite_runtime import load as load_tflite
from tfx_finetune.ops import litert
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS, Modality
from tfx_finetune.types.deployment import Export, LoadedModel, Servable

_TFLITE_FILE, _TOWERS_FILE = "model.tflite", "towers.json"


@EXPORTS.register
def split() -> Export:
    """`model_split/`, for models with several towers that TFLite can only partly represent.

    - `model.tflite`: takes prepared inputs of the towers that it contains, and the features of the other towers.
    - `<tower>/`: SavedModel of each other tower, prepared input (batch, ...) -> `features` (batch, ...).
    - `towers.json`: reason of each other tower.

    A `tflite()` that cannot convert a model with several towers is replaced by this format.
    """
    return Export("tflite_split", "model_split", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Write the folder.

    Raises:
        UserError: If TFLite lacks an operator of the layers above the towers.
    """
    trunks = {
        tower: keras.Model(servable.model.input[tower], output) for tower, output in servable.tower_outputs.items()
    }
    errors = {tower: error for tower, trunk in trunks.items() if (error := _find_conversion_error(trunk))}
    tflite_servable = _replace_towers_by_features(servable, {tower: trunks[tower] for tower in errors})
    content = tflite.convert(tflite_servable, "tflite_split", "none", "float32", "float32")
    with files.write_atomically(path) as draft:
        draft.mkdir()
        (draft / _TFLITE_FILE).write_bytes(tflite.add_metadata(tflite_servable, content))
        for tower in errors:
            _save_tower(trunks[tower], draft / tower)
        (draft / _TOWERS_FILE).write_text(json.dumps(errors, indent=2), encoding="utf-8")


def load(path: Path) -> LoadedModel:
    """Open a folder of this format.

    Raises:
        UserError: If it is not readable.
    """
    try:
        towers = json.loads((path / _TOWERS_FILE).read_text(encoding="utf-8"))
        models = {tower: tf.saved_model.load(str(path / tower)) for tower in towers}
        specs = {
            tower: model.signatures["serving_default"].structured_input_signature[1] for tower, model in models.items()
        }
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        message = "The folder is not a readable export of split()"
        raise UserError(message, got=f"{path} ({first_line(error)})") from None
    predict_from_features = load_tflite(path / _TFLITE_FILE).predict

    def predict(inputs: Batch) -> Batch:
        features = {}
        for tower, model in models.items():
            ((name, spec),) = specs[tower].items()
            tower_input = {name: tf.cast(inputs[tower], spec.dtype)}
            features[tower] = model.signatures["serving_default"](**tower_input)["features"].numpy()
        return predict_from_features(inputs | features)

    return LoadedModel(predict)


def _find_conversion_error(trunk: keras.Model) -> str:
    """Return the reason why TFLite cannot represent a tower; empty if it can."""
    (source,) = trunk.inputs
    spec = tf.TensorSpec([1, *source.shape[1:]], source.dtype)
    frozen = litert.freeze(lambda inputs: trunk(inputs, training=False), [spec])
    try:
        litert.open_interpreter(litert.convert(lambda: tf.lite.TFLiteConverter.from_concrete_functions([frozen])), 1)
    except (RuntimeError, ValueError) as error:
        return tflite.describe_conversion_error(error)
    return ""


def _replace_towers_by_features(servable: Servable, trunks: dict[str, keras.Model]) -> Servable:
    """Return a servable that takes features instead of the inputs of some towers."""
    if not trunks:
        return servable
    inputs = servable.model.input | {tower: trunk.output for tower, trunk in trunks.items()}
    features = {tower: _make_features_modality(tower, trunk.output_shape[1:]) for tower, trunk in trunks.items()}
    model = build_submodel(inputs, servable.model.output)
    return dataclasses.replace(servable, model=model, modalities=dict(servable.modalities) | features)


def _make_features_modality(tower: str, shape: tuple[int, ...]) -> Modality:
    """Return a modality for the features of a tower, without preprocessing."""
    dtype = "float32"
    return Modality(tower, _identity, _identity, shape, lambda: np.zeros(shape, dtype), portable=False, dtype=dtype)


def _identity(x: Any) -> Any:
    return x


def _save_tower(trunk: keras.Model, path: Path) -> None:
    (source,) = trunk.inputs
    spec = tf.TensorSpec([None, *source.shape[1:]], source.dtype, name="inputs")
    features = saved_model.trace(lambda inputs: {"features": trunk(inputs, training=False)}, spec)
    saved_model.save(trunk, {"serving_default": features}, path)
