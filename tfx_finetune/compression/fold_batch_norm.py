"""A network as deployment runtimes compute it: normalization inside convolutions, separable convolutions in two.

Weights that are compressed are then the weights that are deployed: folded later, each of a layer's 16 cluster values
would become as many as it has channels.
"""

from typing import Any

import keras
import numpy as np

from tfx_finetune.ops.functional import build_submodel

# Layers with a kernel whose last axes are the channels that it gives.
_FOLDABLE_LAYERS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense")


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy of a functional model in which no layer with a kernel is followed by BatchNormalization.

    The copy gives the same answers in inference. A normalization that follows something else stays, and so does one
    that is not alone behind its layer. Jacob et al., arXiv 1712.05877, section 3.2. A separable convolution becomes a
    depthwise one, `<name>_depthwise`, and one of 1 x 1 under its own name.
    """
    pairs = _find_foldable_pairs(model)
    gone = {normalization.name for normalization in pairs.values()}
    weights: dict[str, list[np.ndarray]] = {}

    def copy(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):
            return layer  # a sum, say, has nothing to be copied
        config, values = layer.get_config(), layer.get_weights()
        if layer.name in pairs:
            config, values = config | {"use_bias": True}, _fold_weights(layer, pairs[layer.name])
        if isinstance(layer, keras.layers.SeparableConv2D):
            weights[f"{layer.name}_depthwise"], values = values[:1], values[1:]
        weights[layer.name] = values
        return type(layer).from_config(config)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.name in gone:
            return args[0]
        if isinstance(operation, keras.layers.SeparableConv2D):
            depthwise, pointwise = _split_separable(operation)
            return pointwise(depthwise(*args))
        return operation(*args, **kwargs)

    # A model of its own, for cloning takes along what a model was compiled with.
    graph = keras.Model(model.inputs, model.outputs)
    clone = keras.models.clone_model(graph, clone_function=copy, call_function=call)
    inputs = keras.tree.pack_sequence_as(model.input, clone.inputs)
    found = build_submodel(inputs, keras.tree.pack_sequence_as(model.output, clone.outputs))
    trainable = {layer.name: layer.trainable for layer in model.layers}
    for layer in found.layers:
        if layer.name in weights:  # inputs are made anew
            layer.set_weights(weights[layer.name])
            layer.trainable = trainable.get(layer.name, trainable.get(layer.name.removesuffix("_depthwise")))
    return found


def _split_separable(layer: keras.layers.SeparableConv2D) -> tuple[keras.Layer, keras.Layer]:
    """The depthwise and the pointwise part of a separable convolution."""
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
    """Normalizations that can be folded, by the name of the layer before them."""
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if not node.is_input]
    calls: dict[int, int] = {}
    uses: dict[int, int] = {id(tensor): 1 for tensor in keras.tree.flatten(model.output)}
    makers = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    found = {}
    for node in nodes:
        if not isinstance(node.operation, keras.layers.BatchNormalization):
            continue
        (before,) = node.input_tensors
        if (maker := makers.get(id(before))) is None:
            continue
        alone = uses[id(before)] == 1 and calls[id(node.operation)] == calls.get(id(maker), 0) == 1
        last = node.operation.axis in (-1, len(before.shape) - 1)
        if alone and last and type(maker).__name__ in _FOLDABLE_LAYERS and maker.activation is keras.activations.linear:
            found[maker.name] = node.operation
    return found


def compute_scale_and_offset(normalization: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of each channel that a BatchNormalization, of Keras or tf_keras, is in inference."""
    mean, variance = (np.asarray(value) for value in (normalization.moving_mean, normalization.moving_variance))
    scale = (np.asarray(normalization.gamma) if normalization.scale else 1.0) / np.sqrt(
        variance + normalization.epsilon
    )
    shift = np.asarray(normalization.beta) if normalization.center else np.zeros_like(scale)
    return scale, shift - mean * scale


def _fold_weights(layer: keras.Layer, normalization: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """The layer's weights with the normalization in them."""
    weights = layer.get_weights()
    scale, offset = compute_scale_and_offset(normalization)
    bias = weights.pop() if layer.use_bias else np.zeros_like(scale)
    kernel = weights.pop()
    channels = kernel.shape[-2:] if type(layer).__name__ == "DepthwiseConv2D" else kernel.shape[-1:]
    return [*weights, kernel * scale.reshape(channels), bias * scale + offset]
