"""A person's own Keras model as a backbone."""

from pathlib import Path

import keras

from tfx_finetune.backbones.graph import backbone, normalized
from tfx_finetune.contracts import BACKBONES, Backbone, Card
from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError


@BACKBONES.register
def keras_file(
    path: str, layer: str = "", mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)
) -> Backbone:
    """A functional model from a `.keras` file.

    Args:
        path: The file. It is loaded in safe mode: a file that would run code is refused.
        layer: The layer whose output is the feature map or the pooled features; by default the model's last one.
        mean: Normalization of pixels of 0 to 255 that the model expects to be done before it, one value or three.
        std: As `mean`. A model that normalizes by itself needs neither.

    Raises:
        UserError: The file cannot be read, or the model is not of one picture input and one output.
    """
    place = Path(path).expanduser()
    try:
        model = keras.models.load_model(place, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError("not a readable Keras file", received=f"{path} ({reason})") from None
    inputs, output = _ends(model, layer, path)
    size, channels = int(inputs.shape[1] or 0), int(inputs.shape[-1])
    card = Card(
        size=size,
        mean=tuple(mean) * (1 if len(mean) == channels else channels),
        std=tuple(std) * (1 if len(std) == channels else channels),
        channels=channels,
        origin=path,
        sha256=files.sha256(place),
    )
    pixels, normal = normalized(card, size)
    if normal is not pixels:
        # A copy of the graph behind the normalization, so that it stays flat.
        body = keras.Model(inputs, output)
        copy = keras.models.clone_model(body, input_tensors=normal)
        copy.set_weights(body.get_weights())
        inputs, output = pixels, copy.output
    return backbone(card, inputs, output)


def _ends(model: keras.Model, layer: str, path: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise UserError("not a functional Keras model", received=path, allowed="a functional or sequential model")
    names = [part.name for part in model.layers]
    if layer and layer not in names:
        raise UserError("the model has no such layer", received=layer, allowed=names)
    output = model.get_layer(layer).output if layer else model.outputs[0]
    inputs = model.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] not in (1, 3) or len(model.outputs) != 1:
        shapes = [tuple(tensor.shape) for tensor in (*inputs, *model.outputs)]
        allowed = "one input (batch, size, size, 1 or 3) and one output"
        raise UserError("not a model of one picture", received=shapes, allowed=allowed)
    if inputs[0].shape[1] is None or inputs[0].shape[1] != inputs[0].shape[2]:
        raise UserError("the model's input is not a square of fixed size", received=tuple(inputs[0].shape))
    return inputs[0], output
