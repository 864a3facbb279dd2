"""Learning rate multipliers per weight: layer-wise decay, and one factor per tower."""

from collections.abc import Mapping

import keras

from tfx_finetune.models.network import Network


def compute_lr_multipliers(
    network: Network, trainable_part: keras.Model, layer_decay: float, tower_multipliers: Mapping[str, float]
) -> list[float]:
    """Compute the learning rate multiplier of each trainable weight.

    Layer-wise decay (ELECTRA, arXiv 2003.10555, appendix; BEiT, arXiv 2106.08254): heads have multiplier 1, the top
    layer group `layer_decay`, the group below it `layer_decay` squared, and so on.

    Args:
        network: The whole model.
        trainable_part: The part that the phase trains; see `split_model`.
        layer_decay: float in (0, 1]. Factor from one layer group to the group below it.
        tower_multipliers: Further factor of the weights of a tower, and of the fusion's layers for this tower alone.

    Returns:
        Multipliers in the order of `trainable_part.trainable_weights`.
    """
    group_height = {name: height for _, height, group in network.groups for name in group.layers}
    decay = {
        id(weight): layer_decay ** group_height.get(layer.name, 0)
        for layer in network.model.layers
        for weight in layer.weights
    }
    towers = find_weight_towers(network, trainable_part)
    return [
        # Weights of an auxiliary loss are not in the network and have multiplier 1.
        decay.get(id(weight), 1.0) * tower_multipliers.get(tower, 1.0)
        for weight, tower in zip(trainable_part.trainable_weights, towers, strict=True)
    ]


def find_weight_towers(network: Network, trainable_part: keras.Model) -> list[str]:
    """Return the tower of each trainable weight, or an empty string for heads and shared layers.

    Args:
        network: The whole model.
        trainable_part: The part that the phase trains; see `split_model`.

    Returns:
        Tower names in the order of `trainable_part.trainable_weights`.
    """
    if len(network.backbones) == 1:
        (tower,) = network.backbones
        tower_layers = {name for _, _, group in network.groups for name in group.layers}
        layer_tower = {layer.name: tower if layer.name in tower_layers else "" for layer in network.model.layers}
    else:
        # The names of a tower's layers, and of the fusion's layers for this tower, start with the tower's name.
        layer_tower = {
            layer.name: next((tower for tower in network.backbones if layer.name.startswith(f"{tower}_")), "")
            for layer in network.model.layers
        }
    weight_tower = {id(weight): layer_tower[layer.name] for layer in network.model.layers for weight in layer.weights}
    return [weight_tower.get(id(weight), "") for weight in trainable_part.trainable_weights]
