"""Cut of a tower into a frozen trunk and the layers above it.

The features of a trunk are cached once per sample. If heads read several levels of a pyramid, a trunk has one output
all the same: the flattened levels, concatenated.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfx_finetune.ops.functional import build_submodel, get_operation_name
from tfx_finetune.types.components import Backbone

CutTensors = tuple[keras.KerasTensor, ...]
"""Tensors of a tower that are the outputs of its trunk; empty if the whole tower is trained."""


def find_cut_tensors(
    backbone: Backbone, unfrozen_group_count: int, needs_tokens: bool, levels: Sequence[str], needs_pooled: bool
) -> CutTensors:
    """Find the tensors from which all features above the frozen layer groups of a tower can be computed.

    Args:
        backbone: The tower.
        unfrozen_group_count: Number of top layer groups that are trained.
        needs_tokens: True if a fusion reads the tower's tokens.
        levels: Names of the pyramid levels that heads read.
        needs_pooled: True if a head reads the pooled features.

    Returns:
        The tensors, or an empty tuple if all layer groups are trained.
    """
    num_groups = len(backbone.groups)
    if unfrozen_group_count == num_groups:
        return ()
    index = num_groups - unfrozen_group_count - 1
    if needs_tokens:
        index = min(index, _find_last_group_before_tokens(backbone))
        return (backbone.groups[index].output,) if index >= 0 else ()
    trained_layers = {name for group in backbone.groups[index + 1 :] for name in group.layers}
    pyramid = [backbone.features.pyramid[level] for level in levels]
    tensors = [tensor for tensor in pyramid if get_operation_name(tensor) not in trained_layers]
    if unfrozen_group_count or (needs_pooled and pyramid):
        tensors.append(backbone.groups[index].output)
    # A frozen tower without a pyramid is cut after pooling, where the cached features are smallest.
    return tuple({id(tensor): tensor for tensor in tensors or [backbone.features.pooled]}.values())


def build_trunk(inputs: keras.KerasTensor, cut_tensors: CutTensors) -> keras.Model:
    """Build the frozen model from a tower's input to its cut tensor, or to several of them as (batch, numbers)."""
    if len(cut_tensors) == 1:
        return keras.Model(inputs, cut_tensors[0], name="trunk")
    flat = [keras.layers.Flatten()(tensor) for tensor in cut_tensors]
    return keras.Model(inputs, keras.layers.Concatenate()(flat), name="trunk")


def build_trainable_part(inputs: Mapping[str, Any], cut_tensors: Mapping[str, CutTensors], outputs: Any) -> keras.Model:
    """Build the model from the outputs of the trunks to the outputs of the network.

    Args:
        inputs: Inputs of the whole model by name.
        cut_tensors: Cut tensors by tower. Only the tower of a model with one tower can have several.
        outputs: Outputs of the whole model.

    Returns:
        Model from {tower: output of its trunk, or input of a tower without trunk} to the outputs.
    """
    if all(len(tensors) == 1 for tensors in cut_tensors.values()):
        trunk_outputs = {tower: tensors[0] for tower, tensors in cut_tensors.items()}
        return build_submodel({**inputs, **trunk_outputs}, outputs, "trainable_part")
    ((tower, tensors),) = cut_tensors.items()
    levels = {f"level_{index}": tensor for index, tensor in enumerate(tensors)}
    level_model = build_submodel(levels, outputs, "level_model")
    sizes = [math.prod(tensor.shape[1:]) for tensor in tensors]
    flat = keras.Input((sum(sizes),), name="flat_levels")
    bounds = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    reshaped = [
        keras.layers.Reshape(tensor.shape[1:])(flat[:, start:stop])
        for tensor, (start, stop) in zip(tensors, bounds, strict=True)
    ]
    return build_submodel({tower: flat}, level_model(dict(zip(levels, reshaped, strict=True))), "trainable_part")


def _find_last_group_before_tokens(backbone: Backbone) -> int:
    """Return the index of the highest layer group from whose output the tokens can be computed, or -1."""
    tokens, last = backbone.features.tokens, len(backbone.groups) - 1
    if tokens is None:  # the tokens are the locations of the last feature map
        return last
    layer_name = get_operation_name(tokens)
    # Tokens that no group contains are computed from the output of the last group.
    index = next((index for index, group in enumerate(backbone.groups) if layer_name in group.layers), last + 1)
    return index if index <= last and backbone.groups[index].output is tokens else index - 1
