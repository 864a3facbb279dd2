"""A network takes over the weights of an earlier bundle: its towers, and of its heads the labels both have."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.backbones.bundle import load_keras_file
from tfx_finetune.models.layer_names import list_layer_names, list_tower_layer_names
from tfx_finetune.models.network import Network
from tfx_finetune.models.warm_start import InitBundle
from tfx_finetune.types.components import Backbone
from tfx_finetune.types.plan import Architecture


def load_pretrained(
    network: Network, backbones: Mapping[str, Backbone], data: Data, init_bundle: InitBundle | None, fusion: str
) -> Data:
    """Gives an untrained network the weights of the bundle that the run starts from, if it does.

    A tower takes over the tower of its name. Of the head of its name, a head takes over the weights of the labels that
    both have; new labels begin as in any run. Where towers or fusion are not the same, what heads see is another thing,
    and they begin as in any run too.

    Args:
        network: Its weights are changed in place.
        backbones: Its towers, without what adapters add to their graphs.
        data: The samples.
        init: The bundle; None to keep the weights.
        fusion: Spec of the fusion.

    Returns:
        The samples, with what was taken over in the notes of their table.

    Raises:
        UserError: A tower of the bundle has other layers, as adapters that stay leave them.
    """
    if not init_bundle:
        return data
    source = BundleWeights(init_bundle)
    mine, theirs = list_layer_names(network), source.init_bundle.manifest["layer_names"]
    both = [tower for tower in mine["towers"] if tower in theirs["towers"]]
    for tower in both:
        _load_tower(network, source, tower, mine["towers"][tower]["layers"], list_tower_layer_names(backbones[tower]))
    notes = [f"starts from {source.init_bundle.path}: {', '.join(both)} taken over"]
    if why := _describe_mismatch(network.architecture, fusion, init_bundle):
        notes.append(f"all heads begin anew: {why}")
    else:
        _copy_layers(network, source, mine["fusion"], theirs["fusion"])
        notes += [_load_head(network, source, head, mine["heads"][head]) for head in network.tasks]
    for note in notes:
        progress.log(note)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, warnings=(*data.table.warnings, *notes)))


def has_same_head_inputs(architecture: Architecture, fusion: str, init_bundle: InitBundle | None) -> bool:
    """Whether what heads see is what they see in the bundle that the run starts from."""
    return init_bundle is not None and not _describe_mismatch(architecture, fusion, init_bundle)


class BundleWeights:
    """The weights of a bundle, by layer."""

    def __init__(self, init_bundle: InitBundle) -> None:
        self.init_bundle = init_bundle
        self._layers = {layer.name: layer for layer in load_keras_file(init_bundle.path, init_bundle.manifest).layers}

    def get_layer_weights(self, layer: str) -> list[np.ndarray]:
        """Those of a layer."""
        found: list[np.ndarray] = self._layers[layer].get_weights()
        return found


def _load_tower(
    network: Network,
    bundle_weights: BundleWeights,
    tower: str,
    target_names: Sequence[str],
    names_without_adapters: Sequence[str],
) -> None:
    """Takes a tower over, `mine`; where the bundle's has no adapters, `bare`: they begin as the identity."""
    known = [layer.name for layer in network.model.layers]
    theirs: Sequence[str] = bundle_weights.init_bundle.manifest["layer_names"]["towers"][tower]["layers"]
    names_without_adapters = [name for name in names_without_adapters if name in known]
    if not (
        _copy_layers(network, bundle_weights, target_names, theirs)
        or _copy_layers(network, bundle_weights, names_without_adapters, theirs)
    ):
        raise UserError(
            "the bundle's tower has other layers, as phases with an adapter that stays leave them",
            got=f"{tower} of {bundle_weights.init_bundle.path} ({len(theirs)} layers with weights)",
            expected=f"the {len(target_names)} of this run",
            hint=f"give the phases the same adapter, or take --backbone=bundle(path='{bundle_weights.init_bundle.path}')",
        )


def _copy_layers(
    network: Network, bundle_weights: BundleWeights, target_names: Sequence[str], bundle_names: Sequence[str]
) -> bool:
    """Takes layers over, one after the other; whether they are the same. Else nothing is changed."""
    own: list[keras.Layer] = [network.model.get_layer(name) for name in target_names]
    found = [bundle_weights.get_layer_weights(name) for name in bundle_names]
    if [_list_shapes(layer.get_weights()) for layer in own] != [_list_shapes(weights) for weights in found]:
        return False
    for layer, weights in zip(own, found, strict=True):
        layer.set_weights(weights)
    return True


def _load_head(network: Network, bundle_weights: BundleWeights, head: str, target_names: Sequence[str]) -> str:
    """Takes a head over as far as its labels are the bundle's too; says how far, in words."""
    known = bundle_weights.init_bundle.manifest["heads"]
    if head not in known:
        return f"{head} begins anew: the bundle has {', '.join(known)}"
    new, old = network.tasks[head].labels.names, known[head]["labels"]
    both = [name for name in new if name in old]
    if not both:
        return f"{head} begins anew: none of its {len(new)} labels is one of the bundle's {len(old)}"
    theirs = bundle_weights.init_bundle.manifest["layer_names"]["heads"][head]
    own: list[keras.Layer] = [network.model.get_layer(name) for name in target_names]
    pairs = zip(own, theirs, strict=False)
    sides = [
        ([np.array(value) for value in layer.get_weights()], bundle_weights.get_layer_weights(name))
        for layer, name in pairs
    ]
    if len(target_names) != len(theirs) or not all(_differ_only_in_labels(*side, len(new), len(old)) for side in sides):
        return f"{head} begins anew: the bundle's has other layers"
    to, taken = [new.index(name) for name in both], [old.index(name) for name in both]
    for layer, (weights, found) in zip(own, sides, strict=True):
        for value, other in zip(weights, found, strict=True):
            if value.shape[-1:] == (len(new),):
                value[..., to] = other[..., taken]
            else:
                value[...] = other
        layer.set_weights(weights)
    fresh = [name for name in new if name not in both]
    gone = [name for name in old if name not in both]
    return (
        f"{head}: {len(both)} of {len(new)} labels taken over"
        + (f"; new: {progress.shorten_list(fresh)}" if fresh else "")
        + (f"; left out: {progress.shorten_list(gone)}" if gone else "")
    )


def _describe_mismatch(architecture: Architecture, fusion: str, init_bundle: InitBundle) -> str:
    """Why what the heads see is another thing than in the bundle; empty where it is the same."""
    if list(architecture.towers) != list(init_bundle.towers):
        return f"the bundle has the towers {', '.join(init_bundle.towers)}"
    other = init_bundle.manifest.get("fusion", "")
    return f"the bundle's fusion is {other}" if len(architecture.towers) > 1 and other != fusion else ""


def _differ_only_in_labels(
    weights: Sequence[np.ndarray], bundle_weights: Sequence[np.ndarray], num_labels: int, num_bundle_labels: int
) -> bool:
    """Whether two layers differ in the number of labels alone, which is the last axis."""
    return len(weights) == len(bundle_weights) and all(
        own.shape == other.shape
        or (own.shape[:-1] == other.shape[:-1] and (own.shape[-1], other.shape[-1]) == (num_labels, num_bundle_labels))
        for own, other in zip(weights, bundle_weights, strict=True)
    )


def _list_shapes(weights: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]
