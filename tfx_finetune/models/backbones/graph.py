"""A functional graph as a backbone: normalized input, groups of layers between narrow places, pyramid."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.types.components import Backbone, Features, LayerGroup, PretrainedCfg

# A residual block of the networks at hand has two or three convolutions.
_KERNELS_PER_GROUP = 3
_LEVELS = ("P2", "P3", "P4", "P5")
_MERGE_LAYERS = (keras.layers.Add, keras.layers.Concatenate)


def resolve_input_side(name: str, size: int, native_size: int, min_size: int = 32) -> int:
    """The side of a backbone's input in pixels: `size`, or the native one where that is 0.

    Raises:
        UserError: It is less than the least.
    """
    if size and size < min_size:
        raise UserError(f"the input of {name} is too small", got=size, expected=f"at least {min_size} pixels")
    return size or native_size


def make_normalized_input(pretrained_cfg: PretrainedCfg) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns an input of pixels, 0 to 255, and what the network sees of it: (pixel - mean) / std."""
    inputs = keras.Input((pretrained_cfg.size, pretrained_cfg.size, pretrained_cfg.channels), name="image")
    mean, std = pretrained_cfg.mean[: pretrained_cfg.channels], pretrained_cfg.std[: pretrained_cfg.channels]
    if set(mean) == {0.0} and set(std) == {1.0}:
        return inputs, inputs
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if len(set(scale)) == len(set(offset)) == 1:
        return inputs, keras.layers.Rescaling(scale[0], offset[0], name="normalize")(inputs)
    return inputs, keras.layers.Rescaling(scale, offset, name="normalize")(inputs)


def build_backbone(pretrained_cfg: PretrainedCfg, inputs: keras.KerasTensor, output: keras.KerasTensor) -> Backbone:
    """Makes a backbone of the graph from `inputs` to `output`.

    Args:
        card: The weights' card.
        inputs: Pixels, (batch, size, size, channels).
        output: The last feature map, (batch, height, width, channels), or features that are pooled already.
    """
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(output) if len(output.shape) == 4 else output
    model = keras.Model(inputs, output)
    return Backbone(
        "image", pretrained_cfg, inputs, Features(pooled, find_feature_pyramid(model)), split_layer_groups(model)
    )


def insert_layers(backbone: Backbone, layers_after: Mapping[str, Callable[[Any], Any]]) -> Backbone:
    """The same layers with others behind the outputs of some groups, to which these belong from then on.

    Args:
        backbone: The graph.
        behind: By a group's name, from its output to what goes on in its place.
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
        # A group bears the name of its last operation.
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
    """The same graph with a prefix before the names of its layers and groups, so that a model can hold several.

    The prefix itself becomes the name of its input.
    """
    ends = [group.output for group in backbone.groups] + [backbone.features.pooled]
    for operation in keras.Model(backbone.inputs, ends).operations:
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
    """Divides a graph into groups of layers, each left by one tensor alone.

    A group ends at the first joint at which it holds three convolutions: in most networks, at the end of a block.

    Args:
        model: The graph.
        above: The one tensor that leaves the layers that belong to no group, as nothing ever trains them.
        kernels: Layers with a kernel that a group holds at least; 1 where a layer is a whole block.
    """
    nodes = _sort_nodes(model)
    outputs = [id(node.outputs[0]) for node in nodes]
    start = 0 if start_tensor is None else outputs.index(id(start_tensor)) + 1
    found = []
    for joint in [joint for joint in _find_cut_positions(model, nodes) if joint >= start]:
        if sum(_has_kernel(node) for node in nodes[start : joint + 1]) >= min_kernels:
            found.append(_make_group(nodes[start : joint + 1]))
            start = joint + 1
    return (*found, _make_group(nodes[start:]))


def find_feature_pyramid(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """What the blocks of each stride give last: {"P2": stride 4, ..., "P5": stride 32}.

    That is the last joint, addition or concatenation; where there is none, the last narrow one. The side of level n
    is ceil(size / 2^n), and a few pixels less in networks that do not pad (Inception, Xception).
    """
    nodes = _sort_nodes(model)
    size = model.inputs[0].shape[1]
    strides = _compute_strides(model, nodes)
    merges = [position for position, node in enumerate(nodes) if isinstance(node.operation, _MERGE_LAYERS)]
    ends = sorted({*merges, *_find_cut_positions(model, nodes), len(nodes) - 1})
    levels = {}
    for position in (*_find_narrow_positions(model, nodes), *ends):
        output = nodes[position].outputs[0]
        level = strides[id(output)].bit_length() - 1
        # The size tells where layers without a stride, such as upsampling, changed it.
        if len(output.shape) == 4 and size / 2 ** (level + 1) < output.shape[1] <= math.ceil(size / 2**level):
            levels[f"P{level}"] = output
    return {name: levels[name] for name in _LEVELS if name in levels}


def _compute_strides(model: keras.Model, nodes: list[Any]) -> dict[int, int]:
    """Pixels of the input to one of each tensor, by its identity; layers that enlarge are not counted."""
    strides = {id(model.inputs[0]): 1}
    for node in nodes:
        own = getattr(node.operation, "strides", None) or 1
        step = own[0] if isinstance(own, (tuple, list)) else own
        below = max(strides[id(tensor)] for tensor in node.input_tensors)
        strides |= {id(tensor): step * below for tensor in node.outputs}
    return strides


def _find_cut_positions(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Narrow places that are not inside a block.

    A place is no joint if the next one has fewer channels, or as many on fewer pixels: it then lies inside a block,
    widened for a depthwise convolution, and would cost a cache of features several times what the block's end costs.
    """
    places = _find_positions_before_kernels(model, nodes)
    shapes = {place: [n or 0 for n in reversed(nodes[place].outputs[0].shape[1:])] for place in places}
    return [place for place, following in itertools.pairwise(places) if shapes[following] >= shapes[place]]


def _find_positions_before_kernels(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Positions of the last narrow tensor before each convolution, behind normalization, activation and pooling.

    The last one is the end of the graph.
    """
    narrow = _find_narrow_positions(model, nodes)
    kernels = [position for position, node in enumerate(nodes) if _has_kernel(node)]
    before = {max((place for place in narrow if place < kernel), default=-1) for kernel in kernels}
    return sorted((before - {-1}) | {len(nodes) - 1})


def _find_narrow_positions(model: keras.Model, nodes: list[Any]) -> list[int]:
    """Positions behind which nothing computed before them is used, and no layer before them is called again."""
    calls = {id(node.operation): position for position, node in enumerate(nodes)}
    uses = {id(tensor): position for position, node in enumerate(nodes) for tensor in node.input_tensors}
    found, reach = [], uses[id(model.inputs[0])]
    for position, node in enumerate(nodes):
        if reach <= position == calls[id(node.operation)] and len(node.outputs) == 1:
            found.append(position)
        reach = max(reach, calls[id(node.operation)], *(uses.get(id(tensor), 0) for tensor in node.outputs))
    return found


def _sort_nodes(model: keras.Model) -> list[Any]:
    """Calls of layers and operations, each behind those that it takes from, inputs left out."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _has_kernel(node: Any) -> bool:
    return any(len(weight.shape) >= 2 for weight in getattr(node.operation, "weights", ()))


def _make_group(nodes: list[Any]) -> LayerGroup:
    layers = dict.fromkeys(node.operation.name for node in nodes if isinstance(node.operation, keras.Layer))
    return LayerGroup(nodes[-1].operation.name, tuple(layers), nodes[-1].outputs[0])
