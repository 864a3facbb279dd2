"""What a phase learns beside the labels: the objectives of a run, on what the heads read."""

from collections.abc import Mapping
from typing import Any

import keras

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.training.pair_sampler import count_domains, objective_output_name
from tfx_finetune.types.training import AuxiliaryLoss, Objective, ObjectiveContext


def check_objectives(data: Data, objectives: Mapping[str, Objective]) -> Data:
    """The samples, of which every objective is known to have something to learn.

    Raises:
        UserError: One has not.
    """
    for objective in objectives.values():
        count_domains(data.table, objective)
    return data


def build_auxiliary_losses(
    network: Network, data: Data, objectives: Mapping[str, Objective], total_steps: int, seed: int
) -> dict[str, AuxiliaryLoss]:
    """The loss of each objective in a phase of so many steps, by the objective's name."""
    if not objectives:
        return {}
    each = [features.pooled for features in network.head_inputs]
    features = each[0] if len(each) == 1 else keras.layers.Concatenate()(each)
    return {
        name: objective.make_loss(ObjectiveContext(features, count_domains(data.table, objective), total_steps, seed))
        for name, objective in objectives.items()
    }


def make_auxiliary_outputs(auxiliary_losses: Mapping[str, AuxiliaryLoss]) -> dict[str, Any]:
    """What a phase has more outputs for, one an objective."""
    return {
        objective_output_name(name): keras.layers.Identity(dtype="float32")(term.output)
        for name, term in auxiliary_losses.items()
    }


def add_auxiliary_losses(
    losses: tuple[dict[str, Any], dict[str, float]], auxiliary_losses: Mapping[str, AuxiliaryLoss]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Losses and their weights by output, those of objectives among them."""
    terms = {objective_output_name(name): term for name, term in auxiliary_losses.items()}
    return (
        losses[0] | {name: term.loss for name, term in terms.items()},
        losses[1] | {name: term.weight for name, term in terms.items()},
    )
