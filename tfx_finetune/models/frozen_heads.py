"""What a network may not learn: all that it had, where a language is added."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from tfx_finetune.models.add_language import Growth
from tfx_finetune.models.layer_names import parts
from tfx_finetune.models.network import Network


def grown(network: Network, growth: Growth | None) -> Network:
    """The network of which the added language's head alone learns, and what tells the language from others.

    Of the head that tells it, the old classes' weights are put back after every step.
    """
    if not growth:
        return network
    learning = {growth.language}
    if growth.route in network.tasks and growth.language in network.tasks[growth.route].labels.names:
        learning.add(growth.route)
        for name in parts(network)["heads"][growth.route]:
            for weight in network.model.get_layer(name).weights:
                weight.constraint = _kept(weight.numpy()[..., :-1])
    return holding(network, set(network.tasks) - learning, rest=True)


def holding(network: Network, heads: Collection[str], rest: bool = False) -> Network:
    """The network with heads that no phase trains.

    Args:
        network: The whole model, which is shared.
        heads: Their names.
        rest: Whether all that is no head is held too.
    """
    layers = parts(network)["heads"]
    held = {name for head in heads for name in layers[head]}
    if rest:
        every = {layer.name for layer in network.model.layers if layer.weights}
        held |= every - {name for names in layers.values() for name in names}
    return dataclasses.replace(network, held=frozenset(held))


def _kept(values: np.ndarray) -> Callable[[Any], Any]:
    """A constraint that puts these values of all labels but the last, which is the last axis, back."""
    count = values.shape[-1]
    return lambda weight: keras.ops.concatenate([values, weight[..., count:]], -1)
