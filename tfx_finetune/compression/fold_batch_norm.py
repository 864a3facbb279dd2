"""Folding of batch normalization into convolutions, and division of separable convolutions, as runtimes compute them.

A network is folded before compression, so that the compressed weights are the deployed weights. Folding after
clustering would multiply the number of cluster values by the number of channels.
"""

from typing import Any

import keras
import numpy as np

from tfx_finetune.ops.functional import build_submodel

# The last axes of the kernels of these layers are the output channels.
_FOLDABLE_LAYERS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense")


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a copy of a model with batch normalization folded into the layers before it.

    BN folding, Jacob et al., arXiv 1712.05877, section 3.2. The copy has the same outputs in inference. A normalization
    stays if it does not follow a layer with a kernel, or if the output of that layer has other uses. A separable
    convolution becomes a depthwise convolution `<name>_depthwise` and a 1 x 1 convolution `<name>`.

    Args:
        model: Functional model without nested models.
    """
    pairs = _find_foldable_pairs(model)
    folded_names = {normalization.name for normalization in pairs.values()}
    weights: dict[str, list[np.ndarray]] = {}

    def copy(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):
            return layer  # operations such as a sum have no state
        config, values = layer.get_config(), layer.get_weights()
        if layer.name in pairs:
            config, values = config | {"use_bias": True}, _fold_weights(layer, pairs[layer.name])
        if isinstance(layer, keras.layers.SeparableConv2D):
            weights[f"{layer.name}_depthwise"], values = values[:1], values[1:]
        weights[layer.name] = values
        return type(layer).from_config(config)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.name in folded_names:
            return args[0]
        if isinstance(operation, keras.layers.SeparableConv2D):
            depthwise, pointwise = _split_separable(operation)
            return pointwise(depthwise(*args))
        return operation(*args, **kwargs)

    # Without this, cloning would copy the compilation of the model.
    graph = keras.Model(model.inputs, model.outputs)
    clone = keras.models.clone_model(graph, clone_function=copy, call_function=call)
    inputs = keras.tree.pack_sequence_as(model.input, clone.inputs)
    folded = build_submodel(inputs, keras.tree.pack_sequence_as(model.output, clone.outputs))
    trainable = {layer.name: layer.trainable for layer in model.layers}
    for layer in folded.layers:
        if layer.name in weights:  # input layers are not
            layer.set_weights(weights[layer.name])
            layer.trainable = trainable.get(layer.name, trainable.get(layer.name.removesuffix("_depthwise")))
    return folded


def _split_separable(layer: keras.layers.SeparableConv2D) -> tuple[keras.Layer, keras.Layer]:
    """Return the depthwise and the pointwise convolution of a separable convolution, without weights."""
    shared = {"padding": layer.padding, "dtype": layer.dtype_policy}
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        dilation_rate=layer.dilation_rate,
        depth_multiplier=layer.depth_multiplier,
        use_bias=False,
        name=f"{layer.name}_depthwise",
        **shared,
    )
    pointwise = keras.layers.Conv2D(
        layer.filters, 1, activation=layer.activation, use_bias=layer.use_bias, name=layer.name, **shared
    )
    return depthwise, pointwise


def _find_foldable_pairs(model: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """Return the normalizations that can be folded, by the name of the layer before them."""
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if not node.is_input]
    calls: dict[int, int] = {}
    uses: dict[int, int] = {id(tensor): 1 for tensor in keras.tree.flatten(model.output)}
    producers = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    pairs = {}
    for node in nodes:
        normalization = node.operation
        if not isinstance(normalization, keras.layers.BatchNormalization):
            continue
        (tensor,) = node.input_tensors
        layer = producers.get(id(tensor))
        if layer is None or type(layer).__name__ not in _FOLDABLE_LAYERS:
            continue
        is_only_use = uses[id(tensor)] == 1 and calls[id(normalization)] == calls[id(layer)] == 1
        is_last_axis = normalization.axis in (-1, len(tensor.shape) - 1)
        if is_only_use and is_last_axis and layer.activation is keras.activations.linear:
            pairs[layer.name] = normalization
    return pairs


def compute_scale_and_offset(normalization: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset per channel of a BatchNormalization of Keras or tf_keras in inference."""
    mean, variance = (np.asarray(value) for value in (normalization.moving_mean, normalization.moving_variance))
    gamma = np.asarray(normalization.gamma) if normalization.scale else 1.0
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    beta = np.asarray(normalization.beta) if normalization.center else np.zeros_like(scale)
    return scale, beta - mean * scale


def _fold_weights(layer: keras.Layer, normalization: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return the weights of a layer with a normalization folded into them."""
    weights = layer.get_weights()
    scale, offset = compute_scale_and_offset(normalization)
    bias = weights.pop() if layer.use_bias else np.zeros_like(scale)
    kernel = weights.pop()
    channels = kernel.shape[-2:] if type(layer).__name__ == "DepthwiseConv2D" else kernel.shape[-1:]
    return [*weights, kernel * scale.reshape(channels), bias * scale + offset]
