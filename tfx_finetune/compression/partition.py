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
from tfx_finetune.compression.reconstruction import KERNELS
from tfx_finetune.ops.functional import joined


@dataclass(frozen=True)
class Divided:
    """A network in two.

    Attributes:
        below: Inputs by name -> what `above` takes, by name; None where that is the inputs themselves.
        above: What has a counterpart -> {"<head>/logits": ...}.
    """

    below: keras.Model | None
    above: keras.Model

    def seen(self, inputs: Mapping[str, Any]) -> list[tf.Tensor]:
        """What the upper part takes of prepared inputs, in the order in which its twin takes it."""
        given = {name: tf.convert_to_tensor(x) for name, x in inputs.items()}
        given = {name: tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x for name, x in given.items()}
        found = given if self.below is None else self.below(given, training=False)
        return [tf.cast(found[name], tf.float32) for name in sorted(self.above.input)]

    @property
    def names(self) -> list[str]:
        """The outputs, in the order in which the twin of the upper part gives them."""
        return sorted(self.above.output)

    @property
    def sizes(self) -> Counter[int]:
        """How many kernels of each size, in weights, can be compressed."""
        return Counter(int(np.prod(layer.kernel.shape)) for layer in kernels(self.above))


def kernels(model: keras.Model) -> list[keras.Layer]:
    """The convolutions and dense layers of a model that compressions are for."""
    return [layer for layer in model.layers if type(layer).__name__ in KERNELS]


def divided(model: keras.Model) -> Divided:
    """Divides a flat functional model as high as it has to be.

    Args:
        model: Inputs and outputs by name.
    """
    outputs = {name: tensor for name, tensor in model.output.items() if name.endswith("/logits")}
    if not tf_keras_bridge.strangers(model):
        return Divided(None, model if len(outputs) == len(model.output) else joined(model.input, outputs))
    nodes = [node for depth in sorted(model._nodes_by_depth) for node in model._nodes_by_depth[depth]]
    users: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            users.setdefault(id(tensor), []).append(node)
    fixed: set[int] = set()
    for node in nodes:  # from the outputs down
        after = [user for tensor in node.outputs for user in users.get(id(tensor), [])]
        if tf_keras_bridge.strange(node.operation) or any(id(user) in fixed for user in after):
            fixed.add(id(node))
    makers = {id(tensor): node for node in nodes for tensor in node.outputs}
    names = {id(tensor): name for name, tensor in model.input.items()}
    joints: dict[str, Any] = {}
    for node in nodes:
        for tensor in () if id(node) in fixed else node.input_tensors:
            if makers[id(tensor)].is_input or id(makers[id(tensor)]) in fixed:
                joints.setdefault(names.setdefault(id(tensor), f"below_{len(names)}"), tensor)
    return Divided(joined(model.input, joints), joined(joints, outputs))
