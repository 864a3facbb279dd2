"""A functional graph as a backbone: normalized input, groups of layers between its narrow places, pyramid."""

import math
import os

import keras

from tfx_finetune.contracts import Backbone, Card, Features, Group
from tfx_finetune.core.errors import UserError

# A residual block of the networks at hand has at least three convolutions.
_KERNELS_A_GROUP = 3


def normalized(card: Card, size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns an input of pixels, 0 to 255, and what the network sees of it: (pixel - mean) / std.

    Args:
        card: The weights' card.
        size: Side of the input in pixels.
    """
    inputs = keras.Input((size, size, card.channels), name="image")
    mean, std = card.mean[: card.channels], card.std[: card.channels]
    if set(mean) == {0.0} and set(std) == {1.0}:
        return inputs, inputs
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if len(set(scale)) == len(set(offset)) == 1:
        return inputs, keras.layers.Rescaling(scale[0], offset[0], name="normalize")(inputs)
    return inputs, keras.layers.Rescaling(scale, offset, name="normalize")(inputs)


def backbone(card: Card, inputs: keras.KerasTensor, output: keras.KerasTensor) -> Backbone:
    """Makes a backbone of the graph from `inputs` to `output`.

    Args:
        card: The weights' card.
        inputs: Pixels, (batch, size, size, channels).
        output: The last feature map, (batch, height, width, channels), or features that are pooled already.
    """
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(output) if len(output.shape) == 4 else output
    model = keras.Model(inputs, output)
    return Backbone("image", card, inputs, Features(pooled, pyramid(model)), groups(model))


def groups(model: keras.Model) -> tuple[Group, ...]:
    """Divides a graph into groups of layers, each left by one tensor alone.

    A tensor through which every path goes is an articulation point of the graph. A group ends at the last of them
    before the next convolution once it holds three convolutions, and so at the end of a block, behind its addition
    or activation.
    """
    layers = _in_order(model)
    last_use = {id(layer): position for position, layer in enumerate(layers)}
    for position, layer in enumerate(layers):
        for other in _consumed(layer):
            last_use[other] = max(last_use[other], position)
    found: list[Group] = []
    start, kernels, narrow, reach = 0, 0, -1, 0
    for position, layer in enumerate(layers):
        if _has_kernel(layer):
            if kernels >= _KERNELS_A_GROUP and narrow > start:
                found.append(_group(layers[start : narrow + 1]))
                kernels = sum(map(_has_kernel, layers[narrow + 1 : position]))
                start = narrow + 1
            kernels += 1
        # Narrow: nothing that was computed before this layer is used after it.
        if reach <= position:
            narrow = position
        reach = max(reach, last_use[id(layer)])
    return (*found, _group(layers[start:]))


def pyramid(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The last feature map at each stride: {"P2": stride 4, ..., "P5": stride 32}, where there is one."""
    size = model.inputs[0].shape[1]
    levels: dict[str, keras.KerasTensor] = {}
    for layer in _in_order(model):
        output = layer.output
        if isinstance(output, keras.KerasTensor) and len(output.shape) == 4 and output.shape[1]:
            # Unpadded convolutions lose a few pixels, so that a stride of 32 may look like one of 37.
            level = round(math.log2(size / output.shape[1]))
            if 2 <= level <= 5:
                levels[f"P{level}"] = output
    return levels


def load_keras_weights(model: keras.Model, path: str, name: str) -> None:
    """Loads a file of weights that Keras wrote.

    Raises:
        UserError: It is missing, unreadable, or holds the weights of another model.
    """
    if not os.path.isfile(os.path.expanduser(path)):  # noqa: PTH113, PTH111
        raise UserError("no such file of weights", received=path, allowed="imagenet, none or a path")
    try:
        model.load_weights(os.path.expanduser(path))  # noqa: PTH111
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"these are not weights of {name}", received=f"{path} ({reason})") from None


def _in_order(model: keras.Model) -> list[keras.Operation]:
    """Layers and operations, each behind those that it takes from, inputs left out."""
    return [operation for operation in model.operations if not isinstance(operation, keras.layers.InputLayer)]


def _consumed(layer: keras.Operation) -> list[int]:
    return [id(tensor._keras_history.operation) for tensor in layer._inbound_nodes[0].input_tensors if _inside(tensor)]


def _inside(tensor: keras.KerasTensor) -> bool:
    return not isinstance(tensor._keras_history.operation, keras.layers.InputLayer)


def _has_kernel(operation: keras.Operation) -> bool:
    return any(len(weight.shape) >= 2 for weight in getattr(operation, "weights", ()))


def _group(operations: list[keras.Operation]) -> Group:
    layers = tuple(operation.name for operation in operations if isinstance(operation, keras.Layer))
    return Group(operations[-1].name, layers, operations[-1].output)
