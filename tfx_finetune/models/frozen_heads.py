"""Heads that no phase trains, for adding a language and for sequential training of languages."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network


def freeze_all_but_new_head(network: Network, language_extension: LanguageExtension | None) -> Network:
    """Freeze all layers except the head of the added language and the head that identifies the language.

    In the head that identifies the language, a weight constraint restores the weights of the old classes after every
    step.

    Args:
        network: The whole model; constraints are added to its weights in place.
        language_extension: The added language, or None to return the network unchanged.
    """
    if not language_extension:
        return network
    new_heads = {language_extension.language}
    language_head = language_extension.heads_by
    language_task = network.tasks.get(language_head)
    if language_task and language_extension.language in language_task.labels.names:
        new_heads.add(language_head)
        for name in list_layer_names(network)["heads"][language_head]:
            for weight in network.model.get_layer(name).weights:
                weight.constraint = _make_fixed_values_constraint(weight.numpy()[..., :-1])
    return freeze_heads(network, set(network.tasks) - new_heads, freeze_rest=True)


def freeze_heads(network: Network, heads: Collection[str], freeze_rest: bool = False) -> Network:
    """Return a network whose phases do not train these heads.

    Args:
        network: The whole model, which the result shares.
        heads: Names of heads.
        freeze_rest: True to freeze the towers and the fusion too. Default False.
    """
    head_layers = list_layer_names(network)["heads"]
    frozen = {name for head in heads for name in head_layers[head]}
    if freeze_rest:
        layers_with_weights = {layer.name for layer in network.model.layers if layer.weights}
        frozen |= layers_with_weights - {name for names in head_layers.values() for name in names}
    return dataclasses.replace(network, frozen_layers=frozenset(frozen))


def _make_fixed_values_constraint(values: np.ndarray) -> Callable[[Any], Any]:
    """Return a constraint that resets all classes but the last one, on the last axis, to these values."""
    count = values.shape[-1]
    return lambda weight: keras.ops.concatenate([values, weight[..., count:]], -1)
