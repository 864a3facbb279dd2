"""Construction of a backbone from a functional graph: normalized input, layer groups and feature pyramid."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Backbone, Features, LayerGroup, PretrainedCfg

# A residual block of the supported networks has two or three convolutions.
_KERNELS_PER_GROUP = 3
_LEVELS = ("P2", "P3", "P4", "P5")
_MERGE_LAYERS = (keras.layers.Add, keras.layers.Concatenate)


def resolve_input_side(name: str, size: int, native_size: int, min_size: int = 32) -> int:
    """Return the side of a backbone's input in pixels.

    Args:
        name: Name of the backbone, for the error message.
        size: Value of the option; 0 selects the native size.
        native_size: Size on which the weights were trained.
        min_size: Minimum size. Default 32.

    Raises:
        UserError: If the size is below the minimum.

    Examples:
        >>> resolve_input_side("mobilenet", 0, native_size=224)
        224
    """
    if size and size < min_size:
        raise UserError(f"The input size of {name}() is too small", got=size, expected=f"at least {min_size} pixels")
    return size or native_size


def make_normalized_input(pretrained_cfg: PretrainedCfg) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Make an input of pixel values from 0 to 255 and normalize it to (pixel - mean) / std.

    Args:
        pretrained_cfg: Size, channels, mean and standard deviation of the input.

    Returns:
        The input (batch, size, size, channels), and the normalized tensor.
    """
    channels = pretrained_cfg.channels
    inputs = keras.Input((pretrained_cfg.size, pretrained_cfg.size, channels), name="image")
    mean, std = pretrained_cfg.mean[:channels], pretrained_cfg.std[:channels]
    if set(mean) == {0.0} and set(std) == {1.0}:
        return inputs, inputs
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if len(set(scale)) == len(set(offset)) == 1:
        return inputs, keras.layers.Rescaling(scale[0], offset[0], name="normalize")(inputs)
    return inputs, keras.layers.Rescaling(scale, offset, name="normalize")(inputs)


def build_backbone(pretrained_cfg: PretrainedCfg, inputs: keras.KerasTensor, output: keras.KerasTensor) -> Backbone:
    """Build an image backbone from the graph between two tensors.

    Args:
        pretrained_cfg: Configuration of the input and the weights.
        inputs: Pixel values (batch, size, size, channels).
        output: Last feature map (batch, height, width, channels), or pooled features (batch, dim).
    """
    is_map = len(output.shape) == 4
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(output) if is_map else output
    model = keras.Model(inputs, output)
    features = Features(pooled, find_feature_pyramid(model))
    return Backbone("image", pretrained_cfg, inputs, features, split_layer_groups(model))


def insert_layers(backbone: Backbone, layers_after: Mapping[str, Callable[[Any], Any]]) -> Backbone:
    """Insert layers behind the outputs of layer groups; the new layers belong to the groups.

    Args:
        backbone: The graph, whose layers the result shares.
        layers_after: By the name of a layer group, a function from its output to the tensor that replaces it.
    """
    features = backbone.features
    tensors = [group.output for group in backbone.groups]
    tensors += [
        x for x in (features.pooled, *features.pyramid.values(), features.tokens, features.mask) if x is not None
    ]
    unique = list({id(tensor): tensor for tensor in tensors}.values())
    added: dict[str, list[str]] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        output = operation(*args, **kwargs)
        # The name of a layer group is that of its last operation.
        if operation.name not in layers_after:
            return output
        following = layers_after[operation.name](output)
        added[operation.name] = [layer.name for layer in keras.Model(output, following).layers[1:]]
        return following

    model = keras.Model(backbone.inputs, unique)
    clone = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    new = {id(tensor): output for tensor, output in zip(unique, clone.outputs, strict=True)}
    return dataclasses.replace(
        backbone,
        inputs=clone.inputs[0],
        features=features._replace(
            pooled=new[id(features.pooled)],
            pyramid={level: new[id(tensor)] for level, tensor in features.pyramid.items()},
            tokens=None if features.tokens is None else new[id(features.tokens)],
            mask=None if features.mask is None else new[id(features.mask)],
        ),
        groups=tuple(
            group._replace(layers=(*group.layers, *added.get(group.name, ())), output=new[id(group.output)])
            for group in backbone.groups
        ),
    )


def add_prefix(backbone: Backbone, prefix: str) -> Backbone:
    """Rename the layers and groups of a backbone to `<prefix>_<name>` and its input to the prefix, in place.

    Several backbones in one model need distinct layer names.

    Args:
        backbone: The graph.
        prefix: Name of the tower.
    """
    outputs = [group.output for group in backbone.groups] + [backbone.features.pooled]
    for operation in keras.Model(backbone.inputs, outputs).operations:
        operation.name = f"{prefix}_{operation.name}"
    backbone.inputs.name = backbone.inputs._keras_history.operation.name = prefix
    groups = tuple(
        group._replace(name=f"{prefix}_{group.name}", layers=tuple(f"{prefix}_{name}" for name in group.layers))
        for group in backbone.groups
    )
    return dataclasses.replace(backbone, groups=groups)


def split_layer_groups(
    model: keras.Model, start_tensor: keras.KerasTensor | None = None, min_kernels: int = _KERNELS_PER_GROUP
) -> tuple[LayerGroup, ...]:
    """Divide a graph into layer groups that are connected by one tensor each.

    A group ends at the first cut position at which it has `min_kernels` layers with a kernel: in most networks, at the
    end of a block.

    Args:
        model: The graph.
        start_tensor: The single output of front-end layers that belong to no group, as no phase trains them; None if
            there are none.
        min_kernels: int >= 1. Minimum number of layers with a kernel per group; 1 if a layer is a whole block.
            Default 3.
    """
    nodes = _sort_nodes(model)
    outputs = [id(node.outputs[0]) for node in nodes]
    start = 0 if start_tensor is None else outputs.index(id(start_tensor)) + 1
    groups = []
    for cut in [cut for cut in _find_cut_positions(model, nodes) if cut >= start]:
        if sum(_has_kernel(node) for node in nodes[start : cut + 1]) >= min_kernels:
            groups.append(_make_group(nodes[start : cut + 1]))
            start = cut + 1
    return (*groups, _make_group(nodes[start:]))


def find_feature_pyramid(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Find the last feature map of each stride: {"P2": stride 4, ..., "P5": stride 32}.

    Candidates are cut positions, additions and concatenations; a stride without one has its last narrow tensor. The
    side of level n is ceil(size / 2^n), and a few pixels less in networks without padding (Inception, Xception).

    Args:
        model: The graph from the input to the last feature map.
    """
    nodes = _sort_nodes(model)
    size = model.inputs[0].shape[1]
    strides = _compute_strides(model, nodes)
    merges = [position for position, node in enumerate(nodes) if isinstance(node.operation, _MERGE_LAYERS)]
    block_ends = sorted({*merges, *_find_cut_positions(model, nodes), len(nodes) - 1})
    levels = {}
    for position in (*_find_narrow_positions(model, nodes), *block_ends):
        output = nodes[position].outputs[0]
        level = strides[id(output)].bit_length() - 1
        # The size excludes tensors that layers without a stride have resized, such as upsampling layers.
        if len(output.shape) == 4 and size / 2 ** (level + 1) < output.shape[1] <= math.ceil(size / 2**level):
            levels[f"P{level}"] = output
    return {name: levels[name] for name in _LEVELS if name in levels}


def _compute_strides(model: keras.Model, nodes: list[Any]) -> dict[int, int]:
    """Return the product of the strides below each tensor, by the tensor's id; upsampling is ignored."""
    strides = {id(model.inputs[0]): 1}
    for node in nodes:
        layer_strides = getattr(node.operation, "strides", None) or 1
        step = layer_strides[0] if isinstance(layer_strides, (tuple, list)) else layer_strides
        input_stride = max(strides[id(tensor)] for tensor in node.input_tensors)
        strides |= {id(tensor): step * input_stride for tensor in node.outputs}
    return strides


def _find_cut_positions(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Return the narrow positions before kernels that are not inside a block.

    If the next such tensor has fewer channels, or as many on fewer pixels, the position is inside a block that is
    widened for a depthwise convolution. A feature cache there would be several times as large as at the block's end.
    """
    positions = _find_positions_before_kernels(model, nodes)
    shapes = {position: [n or 0 for n in reversed(nodes[position].outputs[0].shape[1:])] for position in positions}
    return [position for position, next_one in itertools.pairwise(positions) if shapes[next_one] >= shapes[position]]


def _find_positions_before_kernels(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Return the last narrow position before each kernel, and the end of the graph.

    Such a position is behind normalization, activation and pooling.
    """
    narrow = _find_narrow_positions(model, nodes)
    kernels = [position for position, node in enumerate(nodes) if _has_kernel(node)]
    before = {max((position for position in narrow if position < kernel), default=-1) for kernel in kernels}
    return sorted((before - {-1}) | {len(nodes) - 1})


def _find_narrow_positions(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Return the positions at which one tensor connects the graph below and the graph above.

    No tensor from below is used above the position, and no layer from below is called again.
    """
    last_calls = {id(node.operation): position for position, node in enumerate(nodes)}
    last_uses = {id(tensor): position for position, node in enumerate(nodes) for tensor in node.input_tensors}
    positions, reach = [], last_uses[id(model.inputs[0])]
    for position, node in enumerate(nodes):
        last_call = last_calls[id(node.operation)]
        if reach <= position == last_call and len(node.outputs) == 1:
            positions.append(position)
        reach = max(reach, last_call, *(last_uses.get(id(tensor), 0) for tensor in node.outputs))
    return positions


def _sort_nodes(model: keras.Model) -> list[Any]:
    """Return the calls of layers and operations in topological order, without the inputs."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _has_kernel(node: Any) -> bool:
    return any(len(weight.shape) >= 2 for weight in getattr(node.operation, "weights", ()))


def _make_group(nodes: list[Any]) -> LayerGroup:
    layers = dict.fromkeys(node.operation.name for node in nodes if isinstance(node.operation, keras.Layer))
    return LayerGroup(nodes[-1].operation.name, tuple(layers), nodes[-1].outputs[0])
