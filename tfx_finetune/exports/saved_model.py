"""The SavedModel: for servers; it decodes pictures by itself."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import EXPORTS, Batch
from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, first_line
from tfx_finetune.deployed import Export, Reader, Servable


@EXPORTS.register
def saved_model() -> Export:
    """`saved_model/` with two signatures, both of any batch size.

    `serving_default`: encoded pictures, (batch,) strings -> for each head `<head>/scores` (batch, classes),
    `<head>/labels` (batch, classes), the classes in the order of the scores, and `<head>/best` (batch,).
    `tensor`: prepared pictures, (batch, height, width, channels) floats of 0 to 255 -> `<head>/scores`.
    """
    return Export("saved_model", "saved_model", write, load, tolerance=1e-4, quantized=False)


def write(servable: Servable, path: Path) -> None:
    """Writes both signatures of the servable model."""
    ((column, shape),) = servable.shapes.items()
    decode = servable.decode[column]

    archive = keras.export.ExportArchive()
    # `track` is left out: it walks through every layer for look-up tables, and endpoints bring their variables along.
    tensor = archive.add_endpoint(
        "tensor",
        lambda inputs: servable.model({column: inputs}, training=False),
        [tf.TensorSpec([None, *shape], tf.float32, name=column)],
    )

    def serving(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.map_fn(decode, raw, fn_output_signature=tf.TensorSpec(shape, tf.uint8))
        outputs = dict(tensor(tf.cast(pixels, tf.float32)))
        for head, names in servable.labels.items():
            scores = outputs[f"{head}/scores"]
            labels = tf.constant(names)
            outputs[f"{head}/labels"] = tf.broadcast_to(labels, tf.shape(scores))
            outputs[f"{head}/best"] = tf.gather(labels, tf.argmax(scores, axis=-1))
        return outputs

    archive.add_endpoint("serving_default", serving, [tf.TensorSpec([None], tf.string, name=column)])
    with files.atomic(path) as draft:
        archive.write_out(str(draft), verbose=False)


def load(path: Path) -> Reader:
    """Opens a SavedModel of this package.

    Raises:
        UserError: It is no SavedModel, or lacks the two signatures.
    """
    try:
        loaded = tf.saved_model.load(str(path))
        tensor, serving = loaded.signatures["tensor"], loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        reason = first_line(error)
        raise UserError("not a readable SavedModel of this package", received=f"{path} ({reason})") from None

    def predict(inputs: Batch) -> Batch:
        floats = {name: tf.constant(np.asarray(values, np.float32)) for name, values in inputs.items()}
        return {name: value.numpy() for name, value in tensor(**floats).items()}

    def serve(raw: dict[str, list[bytes]]) -> Batch:
        outputs = serving(**{name: tf.constant(values) for name, values in raw.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return Reader(predict, serve)
