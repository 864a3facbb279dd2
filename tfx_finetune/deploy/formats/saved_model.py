"""SavedModel, for servers; it preprocesses raw inputs that TensorFlow can decode."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.ops.tf_data import decode_or_empty
from tfx_finetune.tasks.outputs import make_postprocess_fns, replace_outputs
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import EXPORTS, MODALITY_MASK, Modality
from tfx_finetune.types.deployment import Export, LoadedModel, Servable


@EXPORTS.register
def saved_model() -> Export:
    """`saved_model/` with two signatures, or three for detection, all with a free batch size.

    - `serving_default`: takes raw inputs by tower, strings (batch,): encoded images or texts, empty for a missing input
      of several. Inputs that TensorFlow cannot decode, such as audio files, are taken as in `tensor`. Outputs for each
      head: `<head>/scores` (batch, classes), `<head>/labels` (batch, classes) in the order of the scores, and
      `<head>/best` (batch,). A detection head outputs `<head>/boxes` (batch, n, 4), left, top, right and bottom as
      fractions of the image, with `<head>/scores` and `<head>/labels` (batch, n), padded with score 0. A segmentation
      head outputs `<head>/mask`.
    - `<head>`: the same for a head of one language or source, with the outputs of this head only.
    - `detect`: like `serving_default`, with thresholds for each image that replace the options of the head:
      `score_threshold` and `iou_threshold` (batch,) float32, `max_detections` (batch,) int32, at most that of the head.
    - `tensor`: takes prepared inputs, such as images (batch, height, width, channels) with values 0 to 255, and outputs
      `<head>/scores`.
    """
    return Export("saved_model", "saved_model", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Write the signatures of the servable model."""
    specs = {
        name: tf.TensorSpec([None, *shape], dtype, name=name) for name, (shape, dtype) in servable.input_specs.items()
    }
    tensor = trace(lambda inputs: servable.model(inputs, training=False), specs)

    def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        nms_inputs = {name: features[name] for name in servable.nms_inputs if name in features}
        inputs = {name: value for name, value in features.items() if name not in nms_inputs}
        inputs, sizes = _preprocess_batch(servable, inputs) if servable.portable else (inputs, {})
        postprocess_fns = make_postprocess_fns(servable.postprocess_fns, servable.modalities, sizes, nms_inputs)
        outputs = replace_outputs(tensor(inputs), postprocess_fns)
        for head, names in servable.labels.items():
            if head in servable.postprocess_fns:
                continue
            scores = outputs[f"{head}/scores"]
            labels = tf.constant(names)
            outputs[f"{head}/labels"] = tf.broadcast_to(labels, tf.shape(scores))
            outputs[f"{head}/best"] = tf.gather(labels, tf.argmax(scores, axis=-1))
        return outputs

    raw_specs = {tower: tf.TensorSpec([None], tf.string, name=tower) for tower in servable.modalities}
    serving_specs = raw_specs if servable.portable else specs
    signatures = {"tensor": tensor, "serving_default": trace(serve, serving_specs)}
    if servable.nms_inputs:
        nms_specs = {name: tf.TensorSpec([None], dtype, name=name) for name, dtype in servable.nms_inputs.items()}
        signatures["detect"] = trace(serve, serving_specs | nms_specs)
    for head in servable.per_group_heads:
        signatures[head] = trace(
            lambda features, prefix=f"{head}/": _select_outputs(serve(features), prefix), serving_specs
        )
    with files.write_atomically(path) as draft:
        save(servable.model, signatures, draft)


def save(model: keras.Model, signatures: Mapping[str, Any], path: Path) -> None:
    """Save signatures of `trace`, by name, with the variables of the model that they call."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(path), dict(signatures))


def trace(function: Callable[..., Any], specs: Any) -> Any:
    """Trace a function as a signature.

    `keras.export.ExportArchive` would save TensorFlow functions, which are traced once more on saving.

    Args:
        function: Function of one argument.
        specs: Structure of tensor specs of the argument.
    """
    return tf.function(function, input_signature=[specs], autograph=False).get_concrete_function()


def _select_outputs(outputs: dict[str, tf.Tensor], prefix: str) -> dict[str, tf.Tensor]:
    return {name: value for name, value in outputs.items() if name.startswith(prefix)}


def load(path: Path) -> LoadedModel:
    """Open a SavedModel of this package.

    Raises:
        UserError: If it is not a SavedModel with the signatures of this package.
    """
    try:
        loaded = tf.saved_model.load(str(path))
        tensor, serving = loaded.signatures["tensor"], loaded.signatures["serving_default"]
        specs = tensor.structured_input_signature[1]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        message = "The folder is not a readable SavedModel of this package"
        raise UserError(message, got=f"{path} ({first_line(error)})") from None

    def predict(inputs: Batch) -> Batch:
        tensors = {name: tf.cast(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: value.numpy() for name, value in tensor(**tensors).items()}

    def predict_raw(raw: dict[str, list[bytes]]) -> Batch:
        outputs = serving(**{name: tf.constant(values) for name, values in raw.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    serving_specs = serving.structured_input_signature[1].values()
    return LoadedModel(predict, predict_raw if all(spec.dtype == tf.string for spec in serving_specs) else None)


def _preprocess_batch(
    servable: Servable, raw: dict[str, tf.Tensor]
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Preprocess a batch.

    Args:
        servable: Input of the export.
        raw: Raw contents by tower, strings (batch,).

    Returns:
        The inputs of the model, and the heights and widths of the images by tower, int32 (batch, 2).
    """
    has_several = len(raw) > 1
    sizes: dict[str, tf.Tensor] = {}
    is_present = {tower: tf.strings.length(contents) > 0 for tower, contents in raw.items()}
    inputs: dict[str, tf.Tensor] = {}
    for tower, modality in servable.modalities.items():

        def preprocess_sample(
            content_and_flag: tuple[tf.Tensor, tf.Tensor], modality: Modality = modality
        ) -> tuple[tf.Tensor, tf.Tensor]:
            content, has_content = content_and_flag
            decoded = decode_or_empty(modality, content, has_content if has_several else True)
            size = tf.shape(decoded)[:2] if modality.letterbox else tf.zeros((2,), tf.int32)
            return modality.prepare(decoded), size

        signature = tf.TensorSpec(modality.shape, modality.dtype), tf.TensorSpec((2,), tf.int32)
        prepared, size = tf.map_fn(preprocess_sample, (raw[tower], is_present[tower]), fn_output_signature=signature)
        inputs[tower] = tf.cast(prepared, modality.input_dtype)
        sizes |= {tower: size} if modality.letterbox else {}
    if has_several:
        inputs[MODALITY_MASK] = tf.cast(tf.stack(list(is_present.values()), 1), tf.float32)
    return inputs, sizes
