"""What a phase learns beside the labels: the objectives of a run, on what the heads read."""

from collections.abc import Mapping
from typing import Any

import keras

from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.training.pair_sampler import named, values
from tfx_finetune.types.training import Objective, Seen, Term


def sensible(data: Data, objectives: Mapping[str, Objective]) -> Data:
    """The samples, of which every objective is known to have something to learn.

    Raises:
        UserError: One has not.
    """
    for objective in objectives.values():
        values(data.table, objective)
    return data


def terms(network: Network, data: Data, objectives: Mapping[str, Objective], steps: int, seed: int) -> dict[str, Term]:
    """The loss of each objective in a phase of so many steps, by the objective's name."""
    if not objectives:
        return {}
    each = [features.pooled for features in network.seen]
    features = each[0] if len(each) == 1 else keras.layers.Concatenate()(each)
    return {
        name: objective.term(Seen(features, values(data.table, objective), steps, seed))
        for name, objective in objectives.items()
    }


def outputs(found: Mapping[str, Term]) -> dict[str, Any]:
    """What a phase has more outputs for, one an objective."""
    return {named(name): keras.layers.Identity(dtype="float32")(term.output) for name, term in found.items()}


def with_objectives(
    losses: tuple[dict[str, Any], dict[str, float]], found: Mapping[str, Term]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Losses and their weights by output, those of objectives among them."""
    terms = {named(name): term for name, term in found.items()}
    return (
        losses[0] | {name: term.loss for name, term in terms.items()},
        losses[1] | {name: term.weight for name, term in terms.items()},
    )
