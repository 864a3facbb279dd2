"""A flat Keras 3 graph as the same graph in tf_keras (Keras 2), the only kind that TF-MOT takes, and its weights back.

The twin is made of the graph itself, node by node, so that no network is defined a second time.
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
# Those that Keras 2 lacks or defines otherwise are made of layers; SiLU bears its older name there.
_RECTIFIERS = ("relu", "gelu", "swish", "elu", "selu", "softplus")
_ACTIVATIONS = ("linear", "sigmoid", "softmax", "tanh", "exponential", *_RECTIFIERS)
# TF-MOT quantizes what goes into these only where they are layers of their own.
_SEPARATE_ACTIVATIONS = {"sigmoid", "softmax", "tanh", *_RECTIFIERS} - {"relu"}
_ACTIVATION_ALIASES = {"silu": "swish"}
# Weights are copied, so how they began does not matter.
_OMITTED_OPTIONS = ("dtype", "activation", "_initializer", "_regularizer", "_constraint")


def list_unsupported_layers(model: keras.Model) -> list[str]:
    """Kinds of layers and operations of a flat functional model that have no counterpart, sorted."""
    return sorted({_describe_operation(operation) for operation in model.operations if is_unsupported(operation)})


def is_unsupported(operation: keras.Operation) -> bool:
    """Whether a layer or operation has no counterpart."""
    return _find_conversion(operation) is None


def to_tf_keras(model: keras.Model) -> Any:
    """Builds a flat functional model in tf_keras, with the same names, weights and answers.

    Args:
        model: Its inputs and outputs by name or as they are; no layer is a model itself.

    Returns:
        A `tf_keras.Model`. A layer has the name of the one that it stands for; where several stand for one, the others'
        names begin with it.

    Raises:
        UserError: The model has a layer without a counterpart.
    """
    # Importing it changes what `tf.keras` is, and takes seconds.
    import tf_keras

    if unknown := list_unsupported_layers(model):
        raise UserError("no counterpart in Keras 2", got=", ".join(unknown), expected=_SAME_LAYERS)
    made: dict[int, Callable[..., Any]] = {}

    def applied(operation: keras.Operation) -> Callable[..., Any]:
        if id(operation) not in made:
            made[id(operation)] = _convert_operation(operation)
        call = made[id(operation)]
        # What a call says of training or a mask where nothing was said of them would be written into the twin.
        return lambda *args, **kwargs: call(*args, **{k: v for k, v in kwargs.items() if v is not None})

    inputs = keras.tree.map_structure(
        lambda tensor: tf_keras.Input(tensor.shape[1:], name=tensor.name, dtype="float32"), model._inputs_struct
    )
    outputs = model._run_through_graph(keras.tree.flatten(inputs), operation_fn=applied)
    copy = tf_keras.Model(inputs, outputs, name=model.name)
    for layer, other in _iterate_layer_pairs(model, copy):
        other.set_weights(layer.get_weights())
        other.trainable = layer.trainable
    return copy


def copy_weights_back(tf_keras_model: Any, model: keras.Model) -> None:
    """Gives a model the weights of its twin, layer by layer of the same name."""
    for layer, other in _iterate_layer_pairs(model, tf_keras_model):
        layer.set_weights(other.get_weights())


def _iterate_layer_pairs(model: keras.Model, tf_keras_model: Any) -> Iterator[tuple[keras.Layer, Any]]:
    """Layers with weights and their counterparts; those of Normalization and Fusion have become numbers."""
    for layer in model.layers:
        if layer.weights and type(layer).__name__ not in ("Normalization", "FastNormalizedFusion"):
            yield layer, tf_keras_model.get_layer(layer.name)


def _find_conversion(operation: keras.Operation) -> str | None:
    """In which way an operation has a counterpart; None where it has none."""
    kind = type(operation).__name__
    if not isinstance(operation, keras.Layer):
        # TFLite wants one scale for all that a maximum is taken of, which two tensors do not have.
        alone = all(len(node.input_tensors) == 1 for node in operation._inbound_nodes)
        return "arithmetic" if kind in ("Add", "Multiply") or (kind == "Maximum" and alone) else None
    if kind in ("InputLayer", "Normalization", "Rescaling", "LayerScale", "CustomScaleLayer", "FastNormalizedFusion"):
        return kind
    if kind not in _SAME_LAYERS:
        return None
    activation = _get_activation_name(operation)
    if activation in ("hard_silu", "hard_sigmoid"):
        return activation if kind == "Activation" else None
    return "same" if activation in _ACTIVATIONS else None


def _get_activation_name(layer: keras.Layer) -> str:
    found = layer.get_config().get("activation") or "linear"
    return _ACTIVATION_ALIASES.get(found, found) if isinstance(found, str) else "unknown"


def _describe_operation(operation: keras.Operation) -> str:
    kind = type(operation).__name__
    activation = _get_activation_name(operation) if isinstance(operation, keras.Layer) else "linear"
    return kind if activation == "linear" else f"{kind}({activation})"


def _convert_operation(operation: keras.Operation) -> Callable[..., Any]:
    """What applies an operation to tensors of tf_keras."""
    import tf_keras
    from tf_keras.src.applications.convnext import LayerScale

    layers, name = tf_keras.layers, operation.name
    known = _find_conversion(operation)
    if known == "arithmetic":
        return lambda x, y: _apply_arithmetic(layers, operation, x, y)
    if known == "Normalization":
        std = np.sqrt(np.asarray(operation.variance)).ravel()
        mean = np.asarray(operation.mean).ravel()
        return _make_affine(layers, name, (1 / std).tolist(), (-mean / std).tolist())
    if known == "Rescaling":
        return _make_affine(layers, name, operation.scale, operation.offset)
    if known == "LayerScale":
        return LayerScale(operation.init_values, operation.projection_dim, name=name)
    if known == "CustomScaleLayer":  # of Inception-ResNet
        scaled = layers.Rescaling(operation.scale, name=f"{name}_scale")
        return lambda inputs: layers.Add(name=name)([inputs[0], scaled(inputs[1])])
    if known == "FastNormalizedFusion":
        return lambda inputs: _apply_weighted_sum(layers, name, inputs, operation.normalize_weights())
    if known in ("hard_silu", "hard_sigmoid"):
        return lambda x: _apply_hard_activation(layers, name, x, times_input=known == "hard_silu")
    cls = getattr(layers, type(operation).__name__)
    accepted = inspect.signature(cls.__init__).parameters
    config = {
        option: value
        for option, value in operation.get_config().items()
        if option in accepted and not any(option.endswith(part) for part in _OMITTED_OPTIONS)
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
    """x * scale + offset as a layer each: quantized, both results need a range of their own."""
    if not np.any(offset):
        return layers.Rescaling(scale, name=name)
    if np.all(np.equal(scale, 1.0)):
        return layers.Rescaling(1.0, offset, name=name)
    scaled, shifted = layers.Rescaling(scale, name=f"{name}_scale"), layers.Rescaling(1.0, offset, name=name)
    return lambda x: shifted(scaled(x))


def _apply_weighted_sum(layers: Any, name: str, inputs: list[Any], weights: Any) -> Any:
    """The sum of tensors, each times its share (of `bifpn()`), one after the other: each sum has a range of its own."""
    scaled = [
        layers.Rescaling(share, name=f"{name}_scale_{place}")(x)
        for place, (x, share) in enumerate(zip(inputs, np.asarray(weights).tolist(), strict=True))
    ]
    total = scaled[0]
    for place, x in enumerate(scaled[1:], 2):
        total = layers.Add(name=name if place == len(scaled) else f"{name}_sum_{place}")([total, x])
    return total


def _apply_hard_activation(layers: Any, name: str, x: Any, times_input: bool) -> Any:
    """relu6(x + 3) / 6, times x (Howard et al., Searching for MobileNetV3, arXiv 1905.02244, section 5.2).

    Keras 2 has another hard sigmoid, of slope 0.2.
    """
    y = layers.ReLU(6.0, name=f"{name}_relu6")(layers.Rescaling(1.0, 3.0, name=f"{name}_plus3")(x))
    y = layers.Rescaling(1 / 6, name=f"{name}_sixth" if times_input else name)(y)
    return layers.Multiply(name=name)([x, y]) if times_input else y


def _apply_arithmetic(layers: Any, operation: keras.Operation, x: Any, y: Any) -> Any:
    """A sum or product of two tensors, or of a tensor and a number; the larger of a tensor and a number."""
    kind, name = type(operation).__name__, operation.name
    numbers = [value for value in (x, y) if isinstance(value, (int, float))]
    if not numbers:
        return (layers.Add if kind == "Add" else layers.Multiply)(name=name)([x, y])
    tensor, number = y if x is numbers[0] else x, numbers[0]
    if kind == "Maximum":
        over = layers.ReLU(name=f"{name}_over")(layers.Rescaling(1.0, -number, name=f"{name}_moved")(tensor))
        return layers.Rescaling(1.0, number, name=name)(over)
    scale, offset = (1.0, number) if kind == "Add" else (number, 0.0)
    return layers.Rescaling(scale, offset, name=name)(tensor)


def unwrap_single(values: Sequence[Any]) -> Any:
    """What a model of tf_keras is called with: of one input the input, of several a list."""
    return list(values) if len(values) > 1 else values[0]
