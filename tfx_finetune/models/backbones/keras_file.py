"""Backbone from the user's own Keras model."""

from pathlib import Path

import keras

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError, did_you_mean, first_line
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input
from tfx_finetune.ops.functional import get_operation_name
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg


@BACKBONES.register
def keras_file(
    path: str, layer: str = "", mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,), size: int = 0
) -> Backbone:
    """Load a functional or sequential model from a `.keras` file.

    Args:
        path: Path of the file. It is loaded in safe mode: a file that would run code is refused.
        layer: Name of the layer whose output is the feature map or the pooled features. Default: the last layer.
        mean: Mean of pixel values from 0 to 255, one number or one per channel, if the model expects normalized
            pixels. Default 0.
        std: Standard deviation of pixel values > 0, like `mean`. Default 1.
        size: int. Side of the input in pixels, for a model without a fixed input size. Default: the model's size.

    Raises:
        UserError: If the file cannot be read, or the model does not have one image input and one output.
    """
    model = _load_model(path)
    side, channels = _check_side(model, size), model.inputs[0].shape[-1]
    mean, std = _repeat_per_channel("mean", mean, channels), _repeat_per_channel("std", std, channels)
    if min(std) <= 0:
        raise UserError("Option std of keras_file() is out of range", got=std, expected="numbers above 0")
    digest = files.sha256(Path(path).expanduser())
    cfg = PretrainedCfg(size=side, mean=mean, std=std, channels=channels, origin=path, sha256=digest)
    inputs, x = make_normalized_input(cfg)
    # The prefix avoids clashes with the layers of heads, which have Keras's default names such as `dense`.
    outputs = flatten(model, x, prefix="own_")
    return build_backbone(cfg, inputs, _select_feature_tensor(model, outputs, layer))


def _load_model(path: str) -> keras.Model:
    """Load a model and check that it has one square image input."""
    try:
        model = keras.models.load_model(Path(path).expanduser(), compile=False, safe_mode=True)
    except Exception as error:
        # A damaged file can end in any error of zip, HDF5 or Keras.
        raise UserError("The Keras file cannot be read", got=f"{path} ({first_line(error)})") from None
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "inputs", None):
        raise UserError("The Keras model has no graph", got=path, expected="a functional or sequential model")
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] not in (1, 3) or shapes[0][1] != shapes[0][2]:
        expected = "one input (batch, size, size, 1 or 3)"
        raise UserError("The Keras model does not take one square image", got=shapes, expected=expected)
    return model


def _check_side(model: keras.Model, size: int) -> int:
    """Return the side of the input, from the model or from the option."""
    model_size = model.inputs[0].shape[1]
    if not model_size and size <= 0:
        raise UserError("The Keras model has no fixed input size", hint="give the option size, in pixels")
    if model_size and size not in (0, model_size):
        raise UserError("The Keras model has another input size", got=size, expected=model_size)
    return model_size or size


def _repeat_per_channel(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one value per channel."""
    if len(values) not in (1, channels):
        message = f"Option {option} of keras_file() does not fit the channels of the model"
        raise UserError(message, got=values, expected=f"1 or {channels} values")
    return tuple(float(value) for value in values) * (channels // len(values))


def _select_feature_tensor(model: keras.Model, outputs: dict[str, keras.KerasTensor], layer: str) -> keras.KerasTensor:
    """Return the output of the selected layer and check that it is a feature map or a vector."""
    if not layer and len(model.outputs) != 1:
        hint = "select one with the option layer"
        raise UserError("The Keras model has several outputs", got=", ".join(model.output_names), hint=hint)
    name = layer or get_operation_name(model.outputs[0])
    if name not in outputs:
        hint = did_you_mean(name, outputs)
        raise UserError("The Keras model has no such layer", got=name, expected=outputs, hint=hint)
    shape = getattr(outputs[name], "shape", ())
    if len(shape) not in (2, 4):
        expected = "(batch, height, width, channels) or (batch, dim)"
        raise UserError(f"The output of layer {name} is not a feature map or vector", got=shape, expected=expected)
    return outputs[name]
