"""Conversion of a Keras 3 graph to tf_keras (Keras 2), which TF-MOT needs, and of the weights back to Keras 3.

The graph is converted node by node, so that no network has to be defined a second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfx_finetune.core.errors import UserError

_WEIGHTED = (
    "Conv2D",
    "DepthwiseConv2D",
    "SeparableConv2D",
    "Dense",
    "BatchNormalization",
    "LayerNormalization",
    "PReLU",
)
_POINTWISE = ("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation", "Dropout")
_MERGING = ("Add", "Multiply", "Average", "Maximum", "Concatenate")
_POOLING = (
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "MaxPooling2D",
    "AveragePooling2D",
    "AveragePooling1D",
)
_RESHAPING = ("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Reshape", "Flatten", "Permute")
_SAME_LAYERS = (*_WEIGHTED, *_POINTWISE, *_MERGING, *_POOLING, *_RESHAPING)
# Activations that Keras 2 lacks or defines differently are composed of layers. Keras 2 calls SiLU swish.
_RECTIFIERS = ("relu", "gelu", "swish", "elu", "selu", "softplus")
_ACTIVATIONS = ("linear", "sigmoid", "softmax", "tanh", "exponential", *_RECTIFIERS)
# TF-MOT quantizes the inputs of these activations only if they are separate layers.
_SEPARATE_ACTIVATIONS = {"sigmoid", "softmax", "tanh", *_RECTIFIERS} - {"relu"}
_ACTIVATION_ALIASES = {"silu": "swish"}
# Weights are copied, so initializers have no effect.
_OMITTED_OPTIONS = ("dtype", "activation", "_initializer", "_regularizer", "_constraint")


def list_unsupported_layers(model: keras.Model) -> list[str]:
    """Return the names of the layer and operation types of a model that cannot be converted, sorted."""
    return sorted({_describe_operation(operation) for operation in model.operations if is_unsupported(operation)})


def is_unsupported(operation: keras.Operation) -> bool:
    """Return True if a layer or operation cannot be converted."""
    return _find_conversion(operation) is None


def to_tf_keras(model: keras.Model) -> Any:
    """Convert a model to tf_keras, with the same layer names, weights and outputs.

    Args:
        model: Functional model without nested models, with inputs and outputs by name or positional.

    Returns:
        A `tf_keras.Model`. A layer has the name of the original layer. If several layers replace one, one of them has
        its name, and the names of the others start with it.

    Raises:
        UserError: If the model has a layer that cannot be converted.
    """
    # The import changes `tf.keras` and takes seconds.
    import tf_keras

    if unsupported := list_unsupported_layers(model):
        raise UserError("Keras 2 lacks layers of the model", got=", ".join(unsupported), expected=_SAME_LAYERS)
    converted: dict[int, Callable[..., Any]] = {}

    def convert(operation: keras.Operation) -> Callable[..., Any]:
        if id(operation) not in converted:
            converted[id(operation)] = _convert_operation(operation)
        call = converted[id(operation)]
        # Arguments that are None, such as training or mask, would become part of the converted graph.
        return lambda *args, **kwargs: call(*args, **{k: v for k, v in kwargs.items() if v is not None})

    inputs = keras.tree.map_structure(
        lambda tensor: tf_keras.Input(tensor.shape[1:], name=tensor.name, dtype="float32"), model._inputs_struct
    )
    outputs = model._run_through_graph(keras.tree.flatten(inputs), operation_fn=convert)
    tf_keras_model = tf_keras.Model(inputs, outputs, name=model.name)
    for layer, tf_keras_layer in _iterate_layer_pairs(model, tf_keras_model):
        tf_keras_layer.set_weights(layer.get_weights())
        tf_keras_layer.trainable = layer.trainable
    return tf_keras_model


def copy_layer_weights(source: Any, target: Any) -> None:
    """Copy the weights of every layer of a tf_keras model to the layer of the same name in another one."""
    for layer in source.layers:
        target.get_layer(layer.name).set_weights(layer.get_weights())


def copy_weights_back(tf_keras_model: Any, model: keras.Model) -> None:
    """Copy the weights of a converted model back to the original model, layer by layer of the same name.

    Args:
        tf_keras_model: Result of `to_tf_keras(model)`.
        model: The original model; changed in place.
    """
    for layer, tf_keras_layer in _iterate_layer_pairs(model, tf_keras_model):
        layer.set_weights(tf_keras_layer.get_weights())


def _iterate_layer_pairs(model: keras.Model, tf_keras_model: Any) -> Iterator[tuple[keras.Layer, Any]]:
    """Yield pairs of layers with weights; weights of Normalization and FastNormalizedFusion become constants."""
    for layer in model.layers:
        if layer.weights and type(layer).__name__ not in ("Normalization", "Fusion"):
            yield layer, tf_keras_model.get_layer(layer.name)


def _find_conversion(operation: keras.Operation) -> str | None:
    """Return the kind of conversion of an operation; None if it cannot be converted."""
    kind = type(operation).__name__
    if not isinstance(operation, keras.Layer):
        # The maximum of two tensors is not supported: TFLite needs the same scale for both.
        is_unary = all(len(node.input_tensors) == 1 for node in operation._inbound_nodes)
        return "arithmetic" if kind in ("Add", "Multiply") or (kind == "Maximum" and is_unary) else None
    if kind in ("InputLayer", "Normalization", "Rescaling", "LayerScale", "CustomScaleLayer", "Fusion"):
        return kind
    if kind not in _SAME_LAYERS:
        return None
    activation = _get_activation_name(operation)
    if activation in ("hard_silu", "hard_sigmoid"):
        return activation if kind == "Activation" else None
    return "same" if activation in _ACTIVATIONS else None


def _get_activation_name(layer: keras.Layer) -> str:
    name = layer.get_config().get("activation") or "linear"
    return _ACTIVATION_ALIASES.get(name, name) if isinstance(name, str) else "unknown"


def _describe_operation(operation: keras.Operation) -> str:
    kind = type(operation).__name__
    activation = _get_activation_name(operation) if isinstance(operation, keras.Layer) else "linear"
    return kind if activation == "linear" else f"{kind}({activation})"


def _convert_operation(operation: keras.Operation) -> Callable[..., Any]:
    """Return a layer or function that applies an operation to tensors of tf_keras."""
    import tf_keras
    from tf_keras.src.applications.convnext import LayerScale

    layers, name = tf_keras.layers, operation.name
    conversion = _find_conversion(operation)
    if conversion == "arithmetic":
        return lambda x, y: _apply_arithmetic(layers, operation, x, y)
    if conversion == "Normalization":
        std = np.sqrt(np.asarray(operation.variance)).ravel()
        mean = np.asarray(operation.mean).ravel()
        return _make_affine(layers, name, (1 / std).tolist(), (-mean / std).tolist())
    if conversion == "Rescaling":
        return _make_affine(layers, name, operation.scale, operation.offset)
    if conversion == "LayerScale":
        return LayerScale(operation.init_values, operation.projection_dim, name=name)
    if conversion == "CustomScaleLayer":  # Inception-ResNet
        scaled = layers.Rescaling(operation.scale, name=f"{name}_scale")
        return lambda inputs: layers.Add(name=name)([inputs[0], scaled(inputs[1])])
    if conversion == "Fusion":
        return lambda inputs: _apply_weighted_sum(layers, name, inputs, operation.normalize_weights())
    if conversion in ("hard_silu", "hard_sigmoid"):
        return lambda x: _apply_hard_activation(layers, name, x, times_input=conversion == "hard_silu")
    cls = getattr(layers, type(operation).__name__)
    accepted = inspect.signature(cls.__init__).parameters
    config = {
        option: value
        for option, value in operation.get_config().items()
        if option in accepted and not option.endswith(_OMITTED_OPTIONS)
    }
    if isinstance(operation, keras.layers.LeakyReLU):
        config["alpha"] = operation.negative_slope
    if "activation" in accepted:
        config["activation"] = _get_activation_name(operation)
    if operation.weights and config.get("activation") in _SEPARATE_ACTIVATIONS:
        activation = layers.Activation(config.pop("activation"), name=f"{name}_activation")
        layer = cls(**config | {"name": name})
        return lambda x: activation(layer(x))
    return cls(**config | {"name": name})


def _make_affine(layers: Any, name: str, scale: Any, offset: Any) -> Callable[[Any], Any]:
    """Return x * scale + offset as two layers, because the result of each has its own quantization range."""
    if not np.any(offset):
        return layers.Rescaling(scale, name=name)
    if np.all(np.equal(scale, 1.0)):
        return layers.Rescaling(1.0, offset, name=name)
    scaled, shifted = layers.Rescaling(scale, name=f"{name}_scale"), layers.Rescaling(1.0, offset, name=name)
    return lambda x: shifted(scaled(x))


def _apply_weighted_sum(layers: Any, name: str, inputs: list[Any], weights: Any) -> Any:
    """Return the weighted sum of `bifpn()`, added one by one, because each sum has its own quantization range."""
    scaled = [
        layers.Rescaling(weight, name=f"{name}_scale_{index}")(x)
        for index, (x, weight) in enumerate(zip(inputs, np.asarray(weights).tolist(), strict=True))
    ]
    total = scaled[0]
    for count, x in enumerate(scaled[1:], 2):
        total = layers.Add(name=name if count == len(scaled) else f"{name}_sum_{count}")([total, x])
    return total


def _apply_hard_activation(layers: Any, name: str, x: Any, times_input: bool) -> Any:
    """Return the hard sigmoid relu6(x + 3) / 6, or the hard SiLU, which is the hard sigmoid times x.

    Howard et al., Searching for MobileNetV3, arXiv 1905.02244, section 5.2. The hard sigmoid of Keras 2 has another
    slope, 0.2.
    """
    y = layers.ReLU(6.0, name=f"{name}_relu6")(layers.Rescaling(1.0, 3.0, name=f"{name}_plus3")(x))
    y = layers.Rescaling(1 / 6, name=f"{name}_sixth" if times_input else name)(y)
    return layers.Multiply(name=name)([x, y]) if times_input else y


def _apply_arithmetic(layers: Any, operation: keras.Operation, x: Any, y: Any) -> Any:
    """Return the sum or product of two tensors or of a tensor and a number, or the maximum of a tensor and a number."""
    kind, name = type(operation).__name__, operation.name
    numbers = [value for value in (x, y) if isinstance(value, (int, float))]
    if not numbers:
        return (layers.Add if kind == "Add" else layers.Multiply)(name=name)([x, y])
    tensor, number = y if x is numbers[0] else x, numbers[0]
    if kind == "Maximum":
        excess = layers.ReLU(name=f"{name}_over")(layers.Rescaling(1.0, -number, name=f"{name}_moved")(tensor))
        return layers.Rescaling(1.0, number, name=name)(excess)
    scale, offset = (1.0, number) if kind == "Add" else (number, 0.0)
    return layers.Rescaling(scale, offset, name=name)(tensor)


def unwrap_single(values: Sequence[Any]) -> Any:
    """Return the inputs of a tf_keras model as it is called: the single input, or a list of several inputs.

    Examples:
        >>> unwrap_single([1]), unwrap_single([1, 2])
        (1, [1, 2])
    """
    return list(values) if len(values) > 1 else values[0]
