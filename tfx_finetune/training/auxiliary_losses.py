"""Auxiliary losses of a phase, built from the objectives of a run on the features that the heads read."""

from collections.abc import Mapping
from typing import Any

import keras

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.training.pair_sampler import count_domains, objective_output_name
from tfx_finetune.types.training import AuxiliaryLoss, Objective, ObjectiveContext, WeightedLosses


def check_objectives(data: Data, objectives: Mapping[str, Objective]) -> None:
    """Check that the data has the domains and positive pairs that the objectives need.

    Raises:
        UserError: If an objective needs domains or positive pairs that the data does not have.
    """
    for objective in objectives.values():
        count_domains(data.table, objective)


def build_auxiliary_losses(
    network: Network, data: Data, objectives: Mapping[str, Objective], total_steps: int, seed: int
) -> dict[str, AuxiliaryLoss]:
    """Build the auxiliary losses of a phase by the names of their objectives.

    Args:
        network: The whole model.
        data: Samples of all splits.
        objectives: Objectives by name.
        total_steps: Number of training steps of the phase.
        seed: Seed of the run.
    """
    if not objectives:
        return {}
    pooled = [features.pooled for features in network.head_inputs]
    features = pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)
    return {
        name: objective.make_loss(ObjectiveContext(features, count_domains(data.table, objective), total_steps, seed))
        for name, objective in objectives.items()
    }


def make_auxiliary_outputs(auxiliary_losses: Mapping[str, AuxiliaryLoss]) -> dict[str, Any]:
    """Return the symbolic outputs that the auxiliary losses add to the model of a phase, by output name."""
    return {
        objective_output_name(name): keras.layers.Identity(dtype="float32")(auxiliary.output)
        for name, auxiliary in auxiliary_losses.items()
    }


def add_auxiliary_losses(losses: WeightedLosses, auxiliary_losses: Mapping[str, AuxiliaryLoss]) -> WeightedLosses:
    """Return the losses together with the auxiliary losses."""
    by_output = {objective_output_name(name): auxiliary for name, auxiliary in auxiliary_losses.items()}
    return WeightedLosses(
        losses.losses | {output: auxiliary.loss for output, auxiliary in by_output.items()},
        losses.weights | {output: auxiliary.weight for output, auxiliary in by_output.items()},
    )
