"""Split of a network into frozen trunks and a trainable part, at the lowest layer group that a phase trains."""

from collections.abc import Mapping
from typing import Any

import keras

from tfx_finetune.models.cut import CutTensors, build_trainable_part, build_trunk, find_cut_tensors
from tfx_finetune.models.freezing import count_unfrozen_groups_per_tower
from tfx_finetune.models.mean_centering import list_centering_layers
from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.tasks import localization


def split_model(
    network: Network, unfreeze: str, extra_outputs: Mapping[str, Any] | None = None
) -> tuple[dict[str, keras.Model], keras.Model]:
    """Split a network into the frozen trunks and the trainable part of a phase, and set all `trainable` flags.

    Trunks and trainable part share their layers with the network.

    Args:
        network: The whole model.
        unfreeze: Number or fraction of the top layer groups of each tower to train, or `all`; or one value per tower,
            such as `image=5, text=all`.
        extra_outputs: Symbolic tensors of the network that become further outputs of the trainable part, by name.

    Returns:
        The trunk of each tower that is not trained as a whole, and the trainable part: a model from
        {tower: output of its trunk, or input of the tower} to the outputs.
    """
    _set_trainable(network, unfreeze)
    cut_tensors = find_cut_tensors_by_tower(network, unfreeze)
    outputs = network.model.output | (extra_outputs or {})
    if not cut_tensors:
        is_changed = bool(extra_outputs)
        return {}, build_submodel(network.model.input, outputs, "trainable_part") if is_changed else network.model
    trunks = {tower: build_trunk(network.backbones[tower].inputs, tensors) for tower, tensors in cut_tensors.items()}
    return trunks, build_trainable_part(network.model.input, cut_tensors, outputs)


def list_unfrozen_layers(network: Network, unfreeze: str) -> list[keras.Layer]:
    """Return the layers of the towers that an `unfreeze` option selects."""
    names = _list_unfrozen_layer_names(network, unfreeze)
    return [layer for layer in network.model.layers if layer.name in names]


def find_cut_tensors_by_tower(network: Network, unfreeze: str) -> dict[str, CutTensors]:
    """Return the cut tensors of each tower that an `unfreeze` option does not train as a whole."""
    return _find_cut_tensors_by_tower(network, count_unfrozen_groups_per_tower(network.backbones, unfreeze))


def collect_tower_outputs(network: Network) -> dict[str, keras.KerasTensor]:
    """Return the output of each frozen tower that has one; towers with several pyramid levels are left out."""
    cut_tensors = _find_cut_tensors_by_tower(network, dict.fromkeys(network.backbones, 0))
    return {tower: tensors[0] for tower, tensors in cut_tensors.items() if len(tensors) == 1}


def _set_trainable(network: Network, unfreeze: str) -> None:
    """Set the `trainable` flag of every layer for a phase.

    BatchNormalization of a pretrained tower stays frozen, in inference mode: its statistics come from far more data
    than a fine-tuning set (Keras transfer-learning guide). A randomly initialized tower is trained with its
    BatchNormalization.
    """
    unfrozen = _list_unfrozen_layer_names(network, unfreeze)
    frozen = {name for _, _, group in network.groups for name in group.layers} - unfrozen
    frozen |= _list_layers_below_groups(network) - unfrozen
    frozen |= network.frozen_layers | set(list_centering_layers(network.backbones).values())
    pretrained = {
        name
        for tower, _, group in network.groups
        if network.backbones[tower].pretrained_cfg.origin
        for name in group.layers
    }
    for layer in network.model.layers:
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization) and layer.name in pretrained
        trainable = layer.name not in frozen and not (is_batch_norm and layer.name in unfrozen)
        # Keras ignores the assignment of an unchanged flag, and would keep flags that an adapter set on weights.
        layer.trainable = not trainable
        layer.trainable = trainable


def _list_unfrozen_layer_names(network: Network, unfreeze: str) -> set[str]:
    counts = count_unfrozen_groups_per_tower(network.backbones, unfreeze)
    return {name for tower, height, group in network.groups if height <= counts[tower] for name in group.layers}


def _list_layers_below_groups(network: Network) -> set[str]:
    """Return the layers up to the end of each tower's first group, such as a Fourier transform in no group."""
    return {
        layer.name
        for backbone in network.backbones.values()
        for layer in keras.Model(backbone.inputs, backbone.groups[0].output).layers
    }


def _find_cut_tensors_by_tower(network: Network, group_counts: Mapping[str, int]) -> dict[str, CutTensors]:
    """Return the nonempty cut tensors by tower, given the number of trained layer groups of each tower."""
    needs_tokens = network.fusion is not None and network.fusion.needs_tokens
    levels = localization.list_pyramid_levels(network.tasks)
    needs_pooled = any(not task.localization for task in network.tasks.values())
    cut_tensors = {
        tower: find_cut_tensors(backbone, group_counts[tower], needs_tokens, levels, needs_pooled)
        for tower, backbone in network.backbones.items()
    }
    return {tower: tensors for tower, tensors in cut_tensors.items() if tensors}
