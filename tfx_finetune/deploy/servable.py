"""STATION: raw in, decoded out: what every export writes."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfx_finetune.core.spec import Spec
from tfx_finetune.evaluation.scores import decoded
from tfx_finetune.models.build import ends, in_float32
from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import joined
from tfx_finetune.tasks import localization
from tfx_finetune.types.components import Batch, Modality
from tfx_finetune.types.deployment import Servable
from tfx_finetune.types.plan import Plan


def servable(
    plan: Plan,
    network: Network,
    modalities: Mapping[str, Modality],
    examples: Batch,
    rounded: Callable[[dict[str, tf.Tensor]], dict] | None = None,
) -> Servable:
    """Adds each task's decoding to the trained model.

    Args:
        plan: The run.
        network: The trained model; built again in float32 where it was trained in mixed precision.
        modalities: How raw content becomes its inputs, by tower.
        examples: Prepared training inputs, for calibration.
        rounded: From prepared inputs to `<head>/logits`, with the rounding of quantization-aware training.
    """
    network = in_float32(plan, network)
    return Servable(
        model=joined(network.model.input, decoded(network.tasks, network.model.output), "servable"),
        modalities=modalities,
        labels={head: task.labels.names for head, task in network.tasks.items()},
        routed=tuple(head for head, task in network.tasks.items() if task.per),
        found={head: task.places.found for head, task in network.tasks.items() if task.places},
        limits=localization.limits(network.tasks),
        programs=tuple(task.places.program for task in network.tasks.values() if task.places and task.places.program),
        examples=examples,
        about=_about(plan, network),
        rounded=rounded and (lambda inputs: decoded(network.tasks, rounded(inputs))),
        # A compressed model has a graph of its own.
        ends={} if plan.compressions else ends(network),
    )


def _about(plan: Plan, network: Network) -> dict[str, str]:
    about = plan.run.about
    licences = dict.fromkeys(backbone.card.licence for backbone in network.backbones.values())
    return {
        "name": about.name or plan.workdir.name,
        "description": f"{_listed(plan.heads)} on {_listed(plan.towers)}, by tfx_finetune",
        "version": about.version,
        "author": about.author,
        "licence": about.licence or ", ".join(filter(None, licences)),
    }


def _listed(specs: Mapping[str, Spec]) -> str:
    return ", ".join(map(str, specs.values()))
