"""Layer names of a network by tower, fusion and head: the entry `layer_names` of a bundle's manifest.

By these names, `load_weights.py` copies weights of a bundle, and `backbones/bundle.py` extracts a tower.
"""

from collections.abc import Iterable
from typing import Any

import keras

from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import build_submodel, get_operation_name
from tfx_finetune.types.components import Backbone


def list_layer_names(network: Network) -> dict[str, Any]:
    """List the layers with weights of each tower, of the fusion and of each head, in graph order.

    Args:
        network: The whole model.

    Returns:
        Dictionary with the keys `towers`, `fusion` and `heads`:

        - `towers`: for each tower, its `layers`; its layer `groups` by name, with all their layers; and the names of
          the operations whose outputs are `pooled`, `tokens`, `mask` and the levels of `pyramid`, if the model has
          them.
        - `fusion`: layers of no tower and no head.
        - `heads`: layers of each head.
    """
    operation_names = {operation.name for operation in network.model.operations}
    towers = {tower: _describe_tower(backbone, operation_names) for tower, backbone in network.backbones.items()}
    tower_layers = {name for tower in towers.values() for name in tower["layers"]}
    heads = {
        head: [name for name in names if name not in tower_layers]
        for head, names in _list_head_layer_names(network).items()
    }
    head_layers = {name for names in heads.values() for name in names}
    names_with_weights = _list_names_with_weights(network.model.layers)
    fusion = [name for name in names_with_weights if name not in tower_layers | head_layers]
    return {"towers": towers, "fusion": fusion, "heads": heads}


def list_tower_layer_names(backbone: Backbone) -> list[str]:
    """List the layers of a tower that have weights, in graph order."""
    outputs = [x for x in (backbone.features.pooled, backbone.features.tokens) if x is not None]
    return _list_names_with_weights(keras.Model(backbone.inputs, outputs).layers)


def _list_head_layer_names(network: Network) -> dict[str, list[str]]:
    """List the layers of each head above the features; a shared head's layers are not those of heads above it."""
    inputs = network.model.input
    feature_model = build_submodel(inputs, [features.pooled for features in network.head_inputs])
    feature_layers = {layer.name for layer in feature_model.layers}
    layers = {}
    for head in network.tasks:
        head_model = build_submodel(inputs, network.model.output[f"{head}/logits"])
        layers[head] = [name for name in _list_names_with_weights(head_model.layers) if name not in feature_layers]
    shared_layers = {
        head: {name for other in layers.values() if set(other) < set(names) for name in other}
        for head, names in layers.items()
    }
    return {head: [name for name in names if name not in shared_layers[head]] for head, names in layers.items()}


def _describe_tower(backbone: Backbone, operation_names: set[str]) -> dict[str, Any]:
    """Return the manifest entry of a tower.

    Args:
        backbone: The tower.
        operation_names: Names of the model's operations; tokens, for example, may not be part of the model.
    """
    features = backbone.features
    tensors = {"pooled": features.pooled, "tokens": features.tokens, "mask": features.mask}
    operations = {key: get_operation_name(tensor) for key, tensor in tensors.items() if tensor is not None}
    levels = {level: get_operation_name(tensor) for level, tensor in features.pyramid.items()}
    return {
        "layers": [name for name in list_tower_layer_names(backbone) if name in operation_names],
        "groups": {group.name: list(group.layers) for group in backbone.groups},
        "pyramid": {level: name for level, name in levels.items() if name in operation_names},
    } | {key: name for key, name in operations.items() if name in operation_names}


def _list_names_with_weights(layers: Iterable[keras.Layer]) -> list[str]:
    return [layer.name for layer in layers if layer.weights]
