"""Where a tower is cut, and the two models on either side.

What a head looks at may be several levels of a pyramid. What is kept of a picture is one row all the same: the levels
flat, one behind the other.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.types.components import Backbone

CutTensors = tuple[keras.KerasTensor, ...]
"""The tensors at which a tower is cut."""


def find_cut_tensors(
    backbone: Backbone, unfrozen_group_count: int, needs_tokens: bool, levels: Sequence[str], needs_pooled: bool
) -> CutTensors:
    """Where a tower is cut whose top groups, so many of them, are trained; nothing where all of it is.

    Args:
        backbone: The tower.
        count: Groups that are trained.
        tokens: Whether its tokens are looked at.
        levels: Which levels of its pyramid are.
        pooled: Whether its pooled features are.
    """
    if unfrozen_group_count == len(backbone.groups):
        return ()
    position = len(backbone.groups) - unfrozen_group_count - 1
    if needs_tokens:
        position = min(position, _find_last_group_with_tokens(backbone))
        return (backbone.groups[position].output,) if position >= 0 else ()
    above = {name for group in backbone.groups[position + 1 :] for name in group.layers}
    pyramid = [backbone.features.pyramid[level] for level in levels]
    found = [tensor for tensor in pyramid if tensor._keras_history.operation.name not in above]
    if unfrozen_group_count or (needs_pooled and pyramid):
        found.append(backbone.groups[position].output)
    # A frozen tower is cut behind its pooling, where least is left to keep.
    return tuple({id(tensor): tensor for tensor in found or [backbone.features.pooled]}.values())


def build_trunk(inputs: keras.KerasTensor, cut_tensors: CutTensors) -> keras.Model:
    """What lies below a cut: the tower's input -> the one tensor, or several of them flat in a row (batch, numbers)."""
    if len(cut_tensors) == 1:
        return keras.Model(inputs, cut_tensors[0], name="trunk")
    flat = [keras.layers.Flatten()(tensor) for tensor in cut_tensors]
    return keras.Model(inputs, keras.layers.Concatenate()(flat), name="trunk")


def build_trainable_part(inputs: Mapping[str, Any], cut_tensors: Mapping[str, CutTensors], outputs: Any) -> keras.Model:
    """What lies above the cuts: by tower what its trunk gives, or its input -> outputs.

    Args:
        inputs: Of the whole model.
        found: The tensors at which towers are cut; several are of a model's only tower.
        outputs: Of the whole model.
    """
    if all(len(tensors) == 1 for tensors in cut_tensors.values()):
        return build_submodel(
            {**inputs, **{tower: tensors[0] for tower, tensors in cut_tensors.items()}}, outputs, "top"
        )
    ((tower, tensors),) = cut_tensors.items()
    named = {f"level_{at}": tensor for at, tensor in enumerate(tensors)}
    above = build_submodel(named, outputs, "above")
    sizes = [math.prod(tensor.shape[1:]) for tensor in tensors]
    row = keras.Input((sum(sizes),), name="row")
    ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    pieces = [
        keras.layers.Reshape(tensor.shape[1:])(row[:, start:end])
        for tensor, (start, end) in zip(tensors, ends, strict=True)
    ]
    return build_submodel({tower: row}, above(dict(zip(named, pieces, strict=True))), "top")


def _find_last_group_with_tokens(backbone: Backbone) -> int:
    """The highest group behind which a tower's tokens can still be computed; -1 where there is none."""
    tokens, highest = backbone.features.tokens, len(backbone.groups) - 1
    if tokens is None:  # places of the top group's feature map
        return highest
    made = tokens._keras_history.operation.name
    # Above all groups, tokens are made of what the top one gives.
    inside = next((at for at, group in enumerate(backbone.groups) if made in group.layers), highest + 1)
    return inside if inside <= highest and backbone.groups[inside].output is tokens else inside - 1
