"""Initialization of a network with the weights of an earlier bundle: its towers, its fusion and matching classes."""

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
    """Copy the weights of the bundle of `--init` into an untrained network.

    A tower gets the weights of the bundle's tower with its name. A head gets the weights of the bundle's head with its
    name, for the classes that both have; weights of new classes keep their initialization. If towers or fusion differ,
    the heads read other features, and fusion and heads keep their initialization.

    Args:
        network: The whole model; its weights are changed in place.
        backbones: Backbones by tower, without the layers that adapters insert.
        data: Samples of all splits.
        init_bundle: Bundle of `--init`, or None to keep the weights.
        fusion: Spec of the fusion.

    Returns:
        The samples, with a list of the copied weights in the warnings of their table.

    Raises:
        UserError: If a tower of the bundle has other layers, such as those of an adapter that stays in the model.
    """
    if not init_bundle:
        return data
    bundle_weights = BundleWeights(init_bundle)
    names, bundle_names = list_layer_names(network), init_bundle.manifest["layer_names"]
    towers = [tower for tower in names["towers"] if tower in bundle_names["towers"]]
    for tower in towers:
        names_without_adapters = list_tower_layer_names(backbones[tower])
        _load_tower(network, bundle_weights, tower, names["towers"][tower]["layers"], names_without_adapters)
    notes = [f"Initialized from {init_bundle.path}: {', '.join(towers)}"]
    if mismatch := _describe_mismatch(network.architecture, fusion, init_bundle):
        notes.append(f"All heads are new: {mismatch}")
    else:
        _copy_layers(network, bundle_weights, names["fusion"], bundle_names["fusion"])
        notes += [_load_head(network, bundle_weights, head, names["heads"][head]) for head in network.tasks]
    for note in notes:
        progress.log(note)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, warnings=(*data.table.warnings, *notes)))


def has_same_head_inputs(architecture: Architecture, fusion: str, init_bundle: InitBundle | None) -> bool:
    """Return True if the heads read the same features as in the bundle of `--init`.

    Args:
        architecture: Towers of the run.
        fusion: Spec of the fusion.
        init_bundle: Bundle of `--init`, or None.
    """
    return init_bundle is not None and not _describe_mismatch(architecture, fusion, init_bundle)


class BundleWeights:
    """Weights of a bundle's Keras file by layer.

    Args:
        init_bundle: The bundle.
    """

    def __init__(self, init_bundle: InitBundle) -> None:
        self.init_bundle = init_bundle
        self._layers = {layer.name: layer for layer in load_keras_file(init_bundle.path, init_bundle.manifest).layers}

    def get_layer_weights(self, layer: str) -> list[np.ndarray]:
        """Return the weights of a layer."""
        weights: list[np.ndarray] = self._layers[layer].get_weights()
        return weights


def _load_tower(
    network: Network,
    bundle_weights: BundleWeights,
    tower: str,
    layer_names: Sequence[str],
    names_without_adapters: Sequence[str],
) -> None:
    """Copy the weights of a tower; if the bundle's tower has no adapters, those of the run stay the identity."""
    model_layers = [layer.name for layer in network.model.layers]
    bundle = bundle_weights.init_bundle
    bundle_names: Sequence[str] = bundle.manifest["layer_names"]["towers"][tower]["layers"]
    names_without_adapters = [name for name in names_without_adapters if name in model_layers]
    if not (
        _copy_layers(network, bundle_weights, layer_names, bundle_names)
        or _copy_layers(network, bundle_weights, names_without_adapters, bundle_names)
    ):
        raise UserError(
            "The tower of the bundle has other layers, such as those of an adapter that stays in the model",
            got=f"{tower} of {bundle.path} ({len(bundle_names)} layers with weights)",
            expected=f"the {len(layer_names)} layers of this run",
            hint=f"give the phases the same adapter, or use --backbone=bundle(path='{bundle.path}')",
        )


def _copy_layers(
    network: Network, bundle_weights: BundleWeights, layer_names: Sequence[str], bundle_names: Sequence[str]
) -> bool:
    """Copy the weights of layers one by one; return False and change nothing if their shapes differ."""
    layers: list[keras.Layer] = [network.model.get_layer(name) for name in layer_names]
    bundle_values = [bundle_weights.get_layer_weights(name) for name in bundle_names]
    if [_list_shapes(layer.get_weights()) for layer in layers] != list(map(_list_shapes, bundle_values)):
        return False
    for layer, values in zip(layers, bundle_values, strict=True):
        layer.set_weights(values)
    return True


def _load_head(network: Network, bundle_weights: BundleWeights, head: str, layer_names: Sequence[str]) -> str:
    """Copy the weights of the classes that a head and the bundle's head both have, and return a note about it."""
    manifest = bundle_weights.init_bundle.manifest
    if head not in manifest["heads"]:
        return f"Head {head} is new: the bundle has {', '.join(manifest['heads'])}"
    classes, bundle_classes = network.tasks[head].labels.names, manifest["heads"][head]["labels"]
    common = [name for name in classes if name in bundle_classes]
    if not common:
        return f"Head {head} is new: none of its {len(classes)} classes is one of the bundle's {len(bundle_classes)}"
    bundle_names = manifest["layer_names"]["heads"][head]
    layers: list[keras.Layer] = [network.model.get_layer(name) for name in layer_names]
    weights = [[np.array(values) for values in layer.get_weights()] for layer in layers]
    bundle_values = [bundle_weights.get_layer_weights(name) for name in bundle_names]
    if len(layers) != len(bundle_names) or not all(
        _differ_only_in_classes(*pair, len(classes), len(bundle_classes))
        for pair in zip(weights, bundle_values, strict=True)
    ):
        return f"Head {head} is new: the bundle's head has other layers"
    indexes, bundle_indexes = [classes.index(name) for name in common], [bundle_classes.index(name) for name in common]
    for layer, layer_weights, layer_values in zip(layers, weights, bundle_values, strict=True):
        for target, source in zip(layer_weights, layer_values, strict=True):
            if target.shape[-1:] == (len(classes),):
                target[..., indexes] = source[..., bundle_indexes]
            else:
                target[...] = source
        layer.set_weights(layer_weights)
    added = [name for name in classes if name not in common]
    dropped = [name for name in bundle_classes if name not in common]
    return (
        f"Head {head}: {len(common)} of {len(classes)} classes initialized"
        + (f"; new: {progress.shorten_list(added)}" if added else "")
        + (f"; dropped: {progress.shorten_list(dropped)}" if dropped else "")
    )


def _describe_mismatch(architecture: Architecture, fusion: str, init_bundle: InitBundle) -> str:
    """Return why the heads read other features than in the bundle, or an empty string if they read the same."""
    if list(architecture.towers) != list(init_bundle.towers):
        return f"the bundle has the towers {', '.join(init_bundle.towers)}"
    bundle_fusion = init_bundle.manifest.get("fusion", "")
    if len(architecture.towers) > 1 and bundle_fusion != fusion:
        return f"the bundle's fusion is {bundle_fusion}"
    return ""


def _differ_only_in_classes(
    weights: Sequence[np.ndarray], bundle_weights: Sequence[np.ndarray], num_classes: int, num_bundle_classes: int
) -> bool:
    """Return True if the weights of two layers have equal shapes, apart from the number of classes on the last axis."""
    return len(weights) == len(bundle_weights) and all(
        values.shape == bundle_values.shape
        or (
            values.shape[:-1] == bundle_values.shape[:-1]
            and (values.shape[-1], bundle_values.shape[-1]) == (num_classes, num_bundle_classes)
        )
        for values, bundle_values in zip(weights, bundle_weights, strict=True)
    )


def _list_shapes(weights: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]
