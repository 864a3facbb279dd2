"""A network takes over the weights of an earlier bundle: its towers, and of its heads the labels both have."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfx_finetune.core import progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.backbones.bundle import loaded
from tfx_finetune.models.layer_names import layers, parts
from tfx_finetune.models.network import Network
from tfx_finetune.models.warm_start import Start
from tfx_finetune.types.components import Backbone
from tfx_finetune.types.plan import Architecture


def inherit(network: Network, backbones: Mapping[str, Backbone], data: Data, init: Start | None, fusion: str) -> Data:
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
    if not init:
        return data
    source = Source(init)
    mine, theirs = parts(network), source.start.manifest["network"]
    both = [tower for tower in mine["towers"] if tower in theirs["towers"]]
    for tower in both:
        _tower(network, source, tower, mine["towers"][tower]["layers"], layers(backbones[tower]))
    notes = [f"starts from {source.start.path}: {', '.join(both)} taken over"]
    if why := _other(network.architecture, fusion, init):
        notes.append(f"all heads begin anew: {why}")
    else:
        _copy(network, source, mine["fusion"], theirs["fusion"])
        notes += [_head(network, source, head, mine["heads"][head]) for head in network.tasks]
    for note in notes:
        progress.say(note)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, notes=(*data.table.notes, *notes)))


def inherits(architecture: Architecture, fusion: str, init: Start | None) -> bool:
    """Whether what heads see is what they see in the bundle that the run starts from."""
    return init is not None and not _other(architecture, fusion, init)


class Source:
    """The weights of a bundle, by layer."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self._layers = {layer.name: layer for layer in loaded(start.path, start.manifest).layers}

    def weights(self, layer: str) -> list[np.ndarray]:
        """Those of a layer."""
        found: list[np.ndarray] = self._layers[layer].get_weights()
        return found


def _tower(network: Network, source: Source, tower: str, mine: Sequence[str], bare: Sequence[str]) -> None:
    """Takes a tower over, `mine`; where the bundle's has no adapters, `bare`: they begin as the identity."""
    known = [layer.name for layer in network.model.layers]
    theirs: Sequence[str] = source.start.manifest["network"]["towers"][tower]["layers"]
    bare = [name for name in bare if name in known]
    if not (_copy(network, source, mine, theirs) or _copy(network, source, bare, theirs)):
        raise UserError(
            "the bundle's tower has other layers, as phases with an adapter that stays leave them",
            received=f"{tower} of {source.start.path} ({len(theirs)} layers with weights)",
            allowed=f"the {len(mine)} of this run",
            todo=f"give the phases the same adapter, or take --backbone=bundle(path='{source.start.path}')",
        )


def _copy(network: Network, source: Source, mine: Sequence[str], theirs: Sequence[str]) -> bool:
    """Takes layers over, one after the other; whether they are the same. Else nothing is changed."""
    own: list[keras.Layer] = [network.model.get_layer(name) for name in mine]
    found = [source.weights(name) for name in theirs]
    if [_shapes(layer.get_weights()) for layer in own] != [_shapes(weights) for weights in found]:
        return False
    for layer, weights in zip(own, found, strict=True):
        layer.set_weights(weights)
    return True


def _head(network: Network, source: Source, head: str, mine: Sequence[str]) -> str:
    """Takes a head over as far as its labels are the bundle's too; says how far, in words."""
    known = source.start.manifest["heads"]
    if head not in known:
        return f"{head} begins anew: the bundle has {', '.join(known)}"
    new, old = network.tasks[head].labels.names, known[head]["labels"]
    both = [name for name in new if name in old]
    if not both:
        return f"{head} begins anew: none of its {len(new)} labels is one of the bundle's {len(old)}"
    theirs = source.start.manifest["network"]["heads"][head]
    own: list[keras.Layer] = [network.model.get_layer(name) for name in mine]
    pairs = zip(own, theirs, strict=False)
    sides = [([np.array(value) for value in layer.get_weights()], source.weights(name)) for layer, name in pairs]
    if len(mine) != len(theirs) or not all(_alike(*side, len(new), len(old)) for side in sides):
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
        + (f"; new: {progress.some(fresh)}" if fresh else "")
        + (f"; left out: {progress.some(gone)}" if gone else "")
    )


def _other(architecture: Architecture, fusion: str, start: Start) -> str:
    """Why what the heads see is another thing than in the bundle; empty where it is the same."""
    if list(architecture.towers) != list(start.towers):
        return f"the bundle has the towers {', '.join(start.towers)}"
    other = start.manifest.get("fusion", "")
    return f"the bundle's fusion is {other}" if len(architecture.towers) > 1 and other != fusion else ""


def _alike(mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray], new: int, old: int) -> bool:
    """Whether two layers differ in the number of labels alone, which is the last axis."""
    return len(mine) == len(theirs) and all(
        own.shape == other.shape
        or (own.shape[:-1] == other.shape[:-1] and (own.shape[-1], other.shape[-1]) == (new, old))
        for own, other in zip(mine, theirs, strict=True)
    )


def _shapes(weights: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]
