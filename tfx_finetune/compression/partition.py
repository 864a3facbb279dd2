"""Where a network is divided for `--compress`: what has no counterpart in Keras 2 stays as it is, and with it
all that lies below, such as the spectrogram of an audio tower or the tokens of a text tower.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.reconstruction import KERNEL_LAYERS
from tfx_finetune.ops.functional import build_submodel


@dataclass(frozen=True)
class Partition:
    """A network in two.

    Attributes:
        below: Inputs by name -> what `above` takes, by name; None where that is the inputs themselves.
        above: What has a counterpart -> {"<head>/logits": ...}.
    """

    prefix: keras.Model | None
    suffix: keras.Model

    def compute_suffix_inputs(self, inputs: Mapping[str, Any]) -> list[tf.Tensor]:
        """What the upper part takes of prepared inputs, in the order in which its twin takes it."""
        given = {name: tf.convert_to_tensor(x) for name, x in inputs.items()}
        given = {name: tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x for name, x in given.items()}
        found = given if self.prefix is None else self.prefix(given, training=False)
        return [tf.cast(found[name], tf.float32) for name in sorted(self.suffix.input)]

    @property
    def output_names(self) -> list[str]:
        """The outputs, in the order in which the twin of the upper part gives them."""
        return sorted(self.suffix.output)

    @property
    def kernel_sizes(self) -> Counter[int]:
        """How many kernels of each size, in weights, can be compressed."""
        return Counter(int(np.prod(layer.kernel.shape)) for layer in list_compressible_layers(self.suffix))


def list_compressible_layers(model: keras.Model) -> list[keras.Layer]:
    """The convolutions and dense layers of a model that compressions are for."""
    return [layer for layer in model.layers if type(layer).__name__ in KERNEL_LAYERS]


def partition_model(model: keras.Model) -> Partition:
    """Divides a flat functional model as high as it has to be.

    Args:
        model: Inputs and outputs by name.
    """
    outputs = {name: tensor for name, tensor in model.output.items() if name.endswith("/logits")}
    if not tf_keras_bridge.list_unsupported_layers(model):
        return Partition(None, model if len(outputs) == len(model.output) else build_submodel(model.input, outputs))
    nodes = [node for depth in sorted(model._nodes_by_depth) for node in model._nodes_by_depth[depth]]
    users: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            users.setdefault(id(tensor), []).append(node)
    fixed: set[int] = set()
    for node in nodes:  # from the outputs down
        after = [user for tensor in node.outputs for user in users.get(id(tensor), [])]
        if tf_keras_bridge.is_unsupported(node.operation) or any(id(user) in fixed for user in after):
            fixed.add(id(node))
    makers = {id(tensor): node for node in nodes for tensor in node.outputs}
    names = {id(tensor): name for name, tensor in model.input.items()}
    joints: dict[str, Any] = {}
    for node in nodes:
        for tensor in () if id(node) in fixed else node.input_tensors:
            if makers[id(tensor)].is_input or id(makers[id(tensor)]) in fixed:
                joints.setdefault(names.setdefault(id(tensor), f"below_{len(names)}"), tensor)
    return Partition(build_submodel(model.input, joints), build_submodel(joints, outputs))
