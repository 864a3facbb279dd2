"""The SavedModel: for servers; it decodes raw content by itself where TensorFlow can."""

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
    """`saved_model/` with two signatures and for boxes a third one, all of any batch size.

    `serving_default`: encoded pictures or texts by the tower's name, (batch,) strings, of several towers empty where
    one has nothing to see -> for each head `<head>/scores` (batch, classes), `<head>/labels` (batch, classes), the
    classes in the order of the scores, and `<head>/best` (batch,). Of what TensorFlow cannot decode by itself, such as
    audio files, it takes what `tensor` takes. A head that answers one language has a signature of its own, by its name.
    Of a head that finds things in pictures it gives these in place of scores and labels: `<head>/boxes` (batch, most,
    4), left, top, right, bottom in shares of the picture, `<head>/scores` and `<head>/labels` (batch, most), the score
    0 where there are fewer; or `<head>/mask`.
    `detect`: the same, and beside each picture what counts in place of the head's options: `score_threshold` and
    `iou_threshold` (batch,) floats, `max_detections` (batch,) int32, of which the head's own is the most.
    `tensor`: prepared inputs, as pictures, (batch, height, width, channels) floats of 0 to 255 -> `<head>/scores`.
    """
    return Export("saved_model", "saved_model", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Writes the signatures of the servable model."""
    specs = {
        name: tf.TensorSpec([None, *shape], kind, name=name) for name, (shape, kind) in servable.input_specs.items()
    }
    tensor = trace(lambda inputs: servable.model(inputs, training=False), specs)

    def serving(given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        limits = {name: given[name] for name in servable.nms_inputs if name in given}
        given = {name: value for name, value in given.items() if name not in limits}
        inputs, sizes = _preprocess_batch(servable, given) if servable.portable else (given, {})
        outputs = replace_outputs(
            tensor(inputs), make_postprocess_fns(servable.postprocess_fns, servable.modalities, sizes, limits)
        )
        for head, names in servable.labels.items():
            if head in servable.postprocess_fns:
                continue
            scores = outputs[f"{head}/scores"]
            labels = tf.constant(names)
            outputs[f"{head}/labels"] = tf.broadcast_to(labels, tf.shape(scores))
            outputs[f"{head}/best"] = tf.gather(labels, tf.argmax(scores, axis=-1))
        return outputs

    raw = {tower: tf.TensorSpec([None], tf.string, name=tower) for tower in servable.modalities}
    given = raw if servable.portable else specs
    signatures = {"tensor": tensor, "serving_default": trace(serving, given)}
    if servable.nms_inputs:
        limits = {name: tf.TensorSpec([None], kind, name=name) for name, kind in servable.nms_inputs.items()}
        signatures["detect"] = trace(serving, given | limits)
    for head in servable.per_group_heads:
        signatures[head] = trace(lambda inputs, own=f"{head}/": _select_head_outputs(serving(inputs), own), given)
    with files.write_atomically(path) as draft:
        save(servable.model, signatures, draft)


def save(model: keras.Model, signatures: Mapping[str, Any], path: Path) -> None:
    """Writes signatures of `traced`, by name, with the variables of the model that they call."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(path), dict(signatures))


def trace(function: Callable[..., Any], specs: Any) -> Any:
    """A signature. `keras.export.ExportArchive` gives TensorFlow functions, which it traces once more when it saves.

    Args:
        function: Of one argument.
        specs: A structure of specs, which that argument has.
    """
    return tf.function(function, input_signature=[specs], autograph=False).get_concrete_function()


def _select_head_outputs(outputs: dict[str, tf.Tensor], head: str) -> dict[str, tf.Tensor]:
    return {name: value for name, value in outputs.items() if name.startswith(head)}


def load(path: Path) -> LoadedModel:
    """Opens a SavedModel of this package.

    Raises:
        UserError: It is no SavedModel, or lacks the two signatures.
    """
    try:
        loaded = tf.saved_model.load(str(path))
        tensor, serving = loaded.signatures["tensor"], loaded.signatures["serving_default"]
        specs = tensor.structured_input_signature[1]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        reason = first_line(error)
        raise UserError("not a readable SavedModel of this package", got=f"{path} ({reason})") from None

    def predict(inputs: Batch) -> Batch:
        fed = {name: tf.cast(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: value.numpy() for name, value in tensor(**fed).items()}

    def serve(raw: dict[str, list[bytes]]) -> Batch:
        outputs = serving(**{name: tf.constant(values) for name, values in raw.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    raw = serving.structured_input_signature[1].values()
    return LoadedModel(predict, serve if all(spec.dtype == tf.string for spec in raw) else None)


def _preprocess_batch(
    servable: Servable, raw: dict[str, tf.Tensor]
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Batches of raw contents as the model takes them, and the heights and widths of pictures, (batch, 2)."""
    several = len(raw) > 1
    sizes: dict[str, tf.Tensor] = {}
    there = {tower: tf.strings.length(contents) > 0 for tower, contents in raw.items()}
    inputs: dict[str, tf.Tensor] = {}
    for tower, modality in servable.modalities.items():

        def one(each: tuple[tf.Tensor, tf.Tensor], modality: Modality = modality) -> tuple[tf.Tensor, tf.Tensor]:
            content = decode_or_empty(modality, each[0], each[1] if several else True)
            size = tf.shape(content)[:2] if modality.letterbox else tf.zeros((2,), tf.int32)
            return modality.prepare(content), size

        signature = tf.TensorSpec(modality.shape, modality.dtype), tf.TensorSpec((2,), tf.int32)
        found, size = tf.map_fn(one, (raw[tower], there[tower]), fn_output_signature=signature)
        inputs[tower] = tf.cast(found, modality.input_dtype)
        sizes |= {tower: size} if modality.letterbox else {}
    presence = {MODALITY_MASK: tf.cast(tf.stack(list(there.values()), 1), tf.float32)} if several else {}
    return inputs | presence, sizes
