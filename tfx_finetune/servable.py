"""STATION: raw in, decoded out: what every export writes."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import Batch, Modality
from tfx_finetune.deployed import Servable
from tfx_finetune.model import Network, in_float32
from tfx_finetune.plan import Plan


def servable(
    plan: Plan,
    network: Network,
    modality: Modality,
    examples: Batch,
    rounded: Callable[[tf.Tensor], dict] | None = None,
) -> Servable:
    """Adds each task's decoding to the trained model.

    Args:
        plan: The run.
        network: The trained model; built again in float32 where it was trained in mixed precision.
        modality: How raw content becomes its input.
        examples: Prepared training inputs by column, for calibration.
        rounded: From prepared inputs to `<head>/logits`, with the rounding of quantization-aware training.
    """
    network = in_float32(plan, network)
    return Servable(
        model=keras.Model(
            {modality.column: network.backbone.inputs}, _decoded(network, network.model.output), name="servable"
        ),
        decode={modality.column: lambda raw: modality.prepare(modality.decode(raw))},
        shapes={modality.column: modality.shape},
        labels={head: task.labels.names for head, task in network.tasks.items()},
        examples=examples,
        about=_about(plan, network),
        rounded=rounded and (lambda inputs: _decoded(network, rounded(inputs))),
    )


def _about(plan: Plan, network: Network) -> dict[str, str]:
    about, card = plan.run.about, network.backbone.card
    return {
        "name": about.name or plan.workdir.name,
        "description": f"{', '.join(map(str, plan.heads.values()))} on {plan.tower[1]}, by tfx_finetune",
        "version": about.version,
        "author": about.author,
        "licence": about.licence or card.licence,
    }


def _decoded(network: Network, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Each task's decoded outputs, `<head>/<name>`, of `<head>/logits`."""
    return {
        f"{head}/{name}": tensor
        for head, task in network.tasks.items()
        for name, tensor in task.decode({"logits": outputs[f"{head}/logits"]}).items()
    }


def answer(servable: Servable) -> Callable[[np.ndarray], Batch]:
    """Returns the trained model as a function from prepared inputs (n, ...) to decoded outputs by name."""
    ((column, shape),) = servable.shapes.items()
    # One graph for any batch: the last one is smaller, and would be traced again.
    signature = [tf.TensorSpec([None, *shape], tf.float32)]
    run = tf.function(lambda inputs: servable.model({column: inputs}, training=False), input_signature=signature)
    return lambda inputs: {name: value.numpy() for name, value in run(np.asarray(inputs, np.float32)).items()}
