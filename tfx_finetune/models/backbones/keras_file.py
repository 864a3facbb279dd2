"""A person's own Keras model as a backbone."""

from pathlib import Path

import keras

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, did_you_mean, first_line
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg


@BACKBONES.register
def keras_file(
    path: str, layer: str = "", mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,), size: int = 0
) -> Backbone:
    """A functional or sequential model from a `.keras` file.

    Args:
        path: The file. It is loaded in safe mode: a file that would run code is refused.
        layer: The layer whose output is the feature map or the pooled features; by default the model's last one.
        mean: Normalization of pixels of 0 to 255 that the model expects to be done before it, one value or one a
            channel.
        std: As `mean`, above 0. A model that normalizes by itself needs neither.
        size: Side of the input in pixels, for a model that leaves it open.

    Raises:
        UserError: The file cannot be read, or the model is not of one picture input and one output.
    """
    model = _load_model(path)
    side, channels = _check_side(model, size), model.inputs[0].shape[-1]
    mean, std = _repeat_per_channel("mean", mean, channels), _repeat_per_channel("std", std, channels)
    if min(std) <= 0:
        raise UserError("std of keras_file is out of range", got=std, expected="above 0")
    digest = files.sha256(Path(path).expanduser())
    card = PretrainedCfg(size=side, mean=mean, std=std, channels=channels, origin=path, sha256=digest)
    inputs, x = make_normalized_input(card)
    # A head names its layers `dense`, `dropout` and so on, as the person's own model may have done too.
    outputs = flatten(model, x, prefix="own_")
    return build_backbone(card, inputs, _select_feature_tensor(model, outputs, layer))


def _load_model(path: str) -> keras.Model:
    try:
        model = keras.models.load_model(Path(path).expanduser(), compile=False, safe_mode=True)
    except Exception as error:
        # A damaged file can end in any error of zip, HDF5 or Keras.
        reason = first_line(error)
        raise UserError("not a readable Keras file", got=f"{path} ({reason})") from None
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "inputs", None):
        raise UserError("not a functional Keras model", got=path, expected="a functional or sequential model")
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] not in (1, 3) or shapes[0][1] != shapes[0][2]:
        allowed = "one input (batch, size, size, 1 or 3)"
        raise UserError("not a model of one square picture", got=shapes, expected=allowed)
    return model


def _check_side(model: keras.Model, size: int) -> int:
    fixed = model.inputs[0].shape[1]
    if not fixed and size <= 0:
        raise UserError("the model leaves the size of its input open", hint="give size=, in pixels")
    if fixed and size not in (0, fixed):
        raise UserError("the model's input has another size", got=size, expected=fixed)
    return fixed or size


def _repeat_per_channel(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        what = f"{option} of keras_file does not fit the model's input"
        raise UserError(what, got=values, expected=f"1 or {channels} values")
    return tuple(float(value) for value in values) * (channels // len(values))


def _select_feature_tensor(model: keras.Model, outputs: dict[str, keras.KerasTensor], layer: str) -> keras.KerasTensor:
    if not layer and len(model.outputs) != 1:
        raise UserError("the model has several outputs", got=model.output_names, hint="choose one by layer=")
    name = layer or model.outputs[0]._keras_history.operation.name
    if name not in outputs:
        todo = did_you_mean(name, outputs)
        raise UserError("the model has no such layer", got=name, expected=outputs, hint=todo)
    shape = getattr(outputs[name], "shape", ())
    if len(shape) not in (2, 4):
        allowed = "(batch, height, width, channels) or (batch, dim)"
        raise UserError(f"the output of {name} is not features of a picture", got=shape, expected=allowed)
    return outputs[name]
