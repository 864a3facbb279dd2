"""What a network is made of, by the names of its layers, as the manifest of its bundle says it.

From these names another run takes the weights over (`inherit.py`), or a tower as it is (`models/backbones/bundle.py`).
"""

from collections.abc import Iterable
from typing import Any

import keras

from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.types.components import Backbone


def list_layer_names(network: Network) -> dict[str, Any]:
    """The layers with weights of each tower, of the fusion, and of each head, in the order of the graph.

    Returns:
        `towers`: for each, `layers`, the `groups` by name with all their layers, and which operation gives `pooled`,
        `tokens`, `mask` and each level of the `pyramid`, as far as the model has them. `fusion`: layers of no tower and
        no head. `heads`: layers by head.
    """
    known = {operation.name for operation in network.model.operations}
    towers = {tower: _describe_tower(backbone, known) for tower, backbone in network.backbones.items()}
    taken = {name for tower in towers.values() for name in tower["layers"]}
    heads = {
        head: [name for name in names if name not in taken] for head, names in _list_head_layer_names(network).items()
    }
    taken |= {name for names in heads.values() for name in names}
    fusion = [name for name in _list_names_with_weights(network.model.layers) if name not in taken]
    return {"towers": towers, "fusion": fusion, "heads": heads}


def _list_head_layer_names(network: Network) -> dict[str, list[str]]:
    """Layers that each head has above what it sees; those of a head on which others stand are its own."""
    inputs = network.model.input
    below = {
        layer.name for layer in build_submodel(inputs, [features.pooled for features in network.head_inputs]).layers
    }
    above = {
        head: _list_names_with_weights(build_submodel(inputs, network.model.output[f"{head}/logits"]).layers)
        for head in network.tasks
    }
    found = {head: [name for name in names if name not in below] for head, names in above.items()}
    under = {
        head: {name for other in found.values() if set(other) < set(names) for name in other}
        for head, names in found.items()
    }
    return {head: [name for name in names if name not in under[head]] for head, names in found.items()}


def _describe_tower(backbone: Backbone, operation_names: set[str]) -> dict[str, Any]:
    """What is said of a tower; `known` are the operations of the model, in which a tower's tokens may have no place."""
    features = backbone.features
    given = {"pooled": features.pooled, "tokens": features.tokens, "mask": features.mask}
    named = {name: _get_operation_name(tensor) for name, tensor in given.items() if tensor is not None}
    levels = {level: _get_operation_name(tensor) for level, tensor in features.pyramid.items()}
    return {
        "layers": [name for name in list_tower_layer_names(backbone) if name in operation_names],
        "groups": {group.name: list(group.layers) for group in backbone.groups},
        "pyramid": {level: maker for level, maker in levels.items() if maker in operation_names},
    } | {name: maker for name, maker in named.items() if maker in operation_names}


def list_tower_layer_names(backbone: Backbone) -> list[str]:
    """Layers with weights of a tower, in the order of its graph."""
    ends = [x for x in (backbone.features.pooled, backbone.features.tokens) if x is not None]
    return _list_names_with_weights(keras.Model(backbone.inputs, ends).layers)


def _get_operation_name(tensor: keras.KerasTensor) -> str:
    """Name of the operation that gives a tensor."""
    return str(tensor._keras_history.operation.name)


def _list_names_with_weights(layers: Iterable[keras.Layer]) -> list[str]:
    return [layer.name for layer in layers if layer.weights]
