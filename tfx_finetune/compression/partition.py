"""Division of a network into a prefix that stays unchanged and a suffix that is compressed.

Layers that Keras 2 lacks, and all layers below them, belong to the prefix, such as the spectrogram of an audio tower or
the tokenizer of a text tower.
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
    """Network that is divided into two models.

    Attributes:
        prefix: Model from the inputs by name to the inputs of the suffix by name; None if they are the same.
        suffix: Model of layers that Keras 2 has, to the outputs `<head>/logits`.
    """

    prefix: keras.Model | None
    suffix: keras.Model

    def compute_suffix_inputs(self, inputs: Mapping[str, Any]) -> list[tf.Tensor]:
        """Return the inputs of the suffix for preprocessed inputs by name, in the order of the tf_keras model."""
        tensors = {name: tf.convert_to_tensor(x) for name, x in inputs.items()}
        tensors = {name: tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x for name, x in tensors.items()}
        if self.prefix is not None:
            tensors = self.prefix(tensors, training=False)
        return [tf.cast(tensors[name], tf.float32) for name in sorted(self.suffix.input)]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the order of the tf_keras model."""
        return sorted(self.suffix.output)

    @property
    def kernel_sizes(self) -> Counter[int]:
        """Number of compressible kernels by number of weights."""
        return Counter(int(np.prod(layer.kernel.shape)) for layer in list_compressible_layers(self.suffix))


def list_compressible_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the convolutions and dense layers of a model, which compressions change."""
    return [layer for layer in model.layers if type(layer).__name__ in KERNEL_LAYERS]


def partition_model(model: keras.Model) -> Partition:
    """Divide a model so that the prefix is as small as possible.

    Args:
        model: Functional model without nested models, with inputs and outputs by name.
    """
    outputs = {name: tensor for name, tensor in model.output.items() if name.endswith("/logits")}
    if not tf_keras_bridge.list_unsupported_layers(model):
        return Partition(None, model if len(outputs) == len(model.output) else build_submodel(model.input, outputs))
    nodes = [node for depth in sorted(model._nodes_by_depth) for node in model._nodes_by_depth[depth]]
    consumers: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    prefix: set[int] = set()
    for node in nodes:  # from the outputs to the inputs
        following = [consumer for tensor in node.outputs for consumer in consumers.get(id(tensor), [])]
        if tf_keras_bridge.is_unsupported(node.operation) or any(id(consumer) in prefix for consumer in following):
            prefix.add(id(node))
    producers = {id(tensor): node for node in nodes for tensor in node.outputs}
    names = {id(tensor): name for name, tensor in model.input.items()}
    cut_tensors: dict[str, Any] = {}
    for node in nodes:
        for tensor in () if id(node) in prefix else node.input_tensors:
            if producers[id(tensor)].is_input or id(producers[id(tensor)]) in prefix:
                cut_tensors.setdefault(names.setdefault(id(tensor), f"cut_{len(names)}"), tensor)
    return Partition(build_submodel(model.input, cut_tensors), build_submodel(cut_tensors, outputs))
