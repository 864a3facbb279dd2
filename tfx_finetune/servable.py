"""STATION: raw in, decoded out: what every export writes."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.contracts import Batch, Modality, Servable
from tfx_finetune.model import Network, build_model, build_tower
from tfx_finetune.plan import Plan


def servable(plan: Plan, network: Network, modality: Modality, examples: Batch) -> Servable:
    """Adds each task's decoding to the trained model.

    A model that was trained in mixed precision is built again in float32 with the trained weights: the TFLite
    converter takes no bfloat16, and a deployed model should not depend on the card it was trained on.

    Args:
        plan: The run.
        network: The trained model.
        modality: How raw content becomes its input.
        examples: Prepared training inputs by column, for calibration.
    """
    if keras.config.dtype_policy().compute_dtype != "float32":
        network = _in_float32(plan, network)
    outputs = {
        f"{head}/{name}": tensor
        for head, task in network.tasks.items()
        for name, tensor in task.decode({"logits": network.model.output[f"{head}/logits"]}).items()
    }
    return Servable(
        model=keras.Model({modality.column: network.backbone.inputs}, outputs, name="servable"),
        decode={modality.column: lambda raw: modality.prepare(modality.decode(raw))},
        shapes={modality.column: modality.shape},
        labels={head: task.labels.names for head, task in network.tasks.items()},
        examples=examples,
    )


def answer(servable: Servable) -> Callable[[np.ndarray], Batch]:
    """Returns the trained model as a function from prepared inputs (n, ...) to decoded outputs by name."""
    ((column, shape),) = servable.shapes.items()
    # One graph for any batch: the last one is smaller, and would be traced again.
    signature = [tf.TensorSpec([None, *shape], tf.float32)]
    run = tf.function(lambda inputs: servable.model({column: inputs}, training=False), input_signature=signature)
    return lambda inputs: {name: value.numpy() for name, value in run(np.asarray(inputs, np.float32)).items()}


def _in_float32(plan: Plan, network: Network) -> Network:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        rebuilt = build_model(plan, build_tower(plan), network.tasks)
    finally:
        keras.config.set_dtype_policy(policy)
    rebuilt.model.set_weights(network.model.get_weights())
    return rebuilt
