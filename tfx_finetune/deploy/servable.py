"""STATION: raw in, decoded out: what every export writes."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfx_finetune.evaluation.scores import decoded
from tfx_finetune.models.build import ends, in_float32
from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import joined
from tfx_finetune.tasks import localization
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Modality
from tfx_finetune.types.deployment import Servable


def servable(
    network: Network,
    modalities: Mapping[str, Modality],
    examples: Batch,
    metadata: Mapping[str, str],
    rounded: Callable[[dict[str, tf.Tensor]], dict] | None = None,
    compressed: bool = False,
) -> Servable:
    """Adds each task's decoding to the trained model.

    Args:
        network: The trained model; built again in float32 where it was trained in mixed precision.
        modalities: How raw content becomes its inputs, by tower.
        examples: Prepared training inputs, for calibration.
        metadata: What the files say about themselves; see `manifest.file_metadata`.
        rounded: From prepared inputs to `<head>/logits`, with the rounding of quantization-aware training.
        compressed: Whether the model is a compressed one, which has a graph of its own.
    """
    network = in_float32(network)
    return Servable(
        model=joined(network.model.input, decoded(network.tasks, network.model.output), "servable"),
        modalities=modalities,
        labels={head: task.labels.names for head, task in network.tasks.items()},
        routed=tuple(head for head, task in network.tasks.items() if task.per),
        found={head: task.places.found for head, task in network.tasks.items() if task.places},
        limits=localization.limits(network.tasks),
        programs=tuple(task.places.program for task in network.tasks.values() if task.places and task.places.program),
        examples=examples,
        about=metadata,
        rounded=rounded and (lambda inputs: decoded(network.tasks, rounded(inputs))),
        ends={} if compressed else ends(network),
    )
