"""What a network may not learn: all that it had, where a language is added."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from tfx_finetune.models.add_language import LanguageExtension
from tfx_finetune.models.layer_names import list_layer_names
from tfx_finetune.models.network import Network


def freeze_all_but_new_head(network: Network, language_extension: LanguageExtension | None) -> Network:
    """The network of which the added language's head alone learns, and what tells the language from others.

    Of the head that tells it, the old classes' weights are put back after every step.
    """
    if not language_extension:
        return network
    learning = {language_extension.language}
    if (
        language_extension.heads_by in network.tasks
        and language_extension.language in network.tasks[language_extension.heads_by].labels.names
    ):
        learning.add(language_extension.heads_by)
        for name in list_layer_names(network)["heads"][language_extension.heads_by]:
            for weight in network.model.get_layer(name).weights:
                weight.constraint = _make_fixed_values_constraint(weight.numpy()[..., :-1])
    return freeze_heads(network, set(network.tasks) - learning, freeze_rest=True)


def freeze_heads(network: Network, heads: Collection[str], freeze_rest: bool = False) -> Network:
    """The network with heads that no phase trains.

    Args:
        network: The whole model, which is shared.
        heads: Their names.
        rest: Whether all that is no head is held too.
    """
    layers = list_layer_names(network)["heads"]
    held = {name for head in heads for name in layers[head]}
    if freeze_rest:
        every = {layer.name for layer in network.model.layers if layer.weights}
        held |= every - {name for names in layers.values() for name in names}
    return dataclasses.replace(network, frozen_layers=frozenset(held))


def _make_fixed_values_constraint(values: np.ndarray) -> Callable[[Any], Any]:
    """A constraint that puts these values of all labels but the last, which is the last axis, back."""
    count = values.shape[-1]
    return lambda weight: keras.ops.concatenate([values, weight[..., count:]], -1)
