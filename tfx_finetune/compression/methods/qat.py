"""Quantization-aware training: trains with simulated int8 rounding (Jacob et al., arXiv 1712.05877)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfx_finetune.compression.fold_batch_norm import compute_scale_and_offset
from tfx_finetune.compression.quantizers import (
    compute_effective_kernel,
    make_activation_quantizer,
    make_quantize_config,
    make_quantize_scheme,
)
from tfx_finetune.compression.tf_keras_bridge import unwrap_single
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression

# The outputs of these layers have the scale of their inputs.
_POOLING = ("MaxPooling2D", "GlobalMaxPooling2D", "AveragePooling2D", "AveragePooling1D")
_SAME_SCALE_LAYERS = ("ZeroPadding2D", "Cropping2D", "Reshape", "Flatten", "Permute", *_POOLING)
# TFLite has no int8 kernel for these layers: their arithmetic is float, and their outputs are quantized.
_FLOAT_LAYERS = ("LayerNormalization",)
_FUSED_WITH_RELU = ("Conv2D", "DepthwiseConv2D", "Dense", "Add")
_FIXED_RANGE_ACTIVATIONS = ("linear", "sigmoid", "softmax", "tanh")


@COMPRESSIONS.register
def qat(epochs: int = 3, learning_rate: float = 1e-4) -> Compression:
    """Train with weights and activations rounded to 8 bits; `tflite(quantize='int8')` uses the trained ranges.

    Zeros of `prune()` are preserved (PQAT), values of `cluster()` are preserved (CQAT), and both together (PCQAT).
    Ranges of activations start at the ranges of calibration samples and follow the last twenty batches. TF-MOT's ranges
    start at -6 to 6 and follow the last thousand batches, which is more than most fine-tuning has.

    Args:
        epochs: int >= 0. Number of training epochs; 0 measures the ranges and changes no weights. Default 3.
        learning_rate: float > 0. Peak of the cosine schedule. Default 1e-4.
    """
    return Compression(
        "qat", epochs, learning_rate, _wrap, _strip, list, restore_best_weights=True, float_layers=_FLOAT_LAYERS
    )


def _wrap(tf_keras_model: Any, steps: int, calibration_inputs: Sequence[np.ndarray], previous: Sequence[str]) -> Any:
    """Return a copy of a model with simulated int8 rounding, its ranges set to those of calibration samples."""
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quantize
    from tf_keras.src.applications.convnext import LayerScale

    configs = {
        layer.name: make_quantize_config(_get_quantized_type(layer), _is_output_quantized(layer), previous)
        for layer in tf_keras_model.layers
    }
    custom_objects = {type(config).__name__: type(config) for config in configs.values()} | {"LayerScale": LayerScale}

    def annotate(layer: Any) -> Any:
        is_batch_norm = _is_standalone_batch_norm(layer)
        copy = _to_depthwise_conv(layer) if is_batch_norm else type(layer).from_config(layer.get_config())
        return quantize.quantize_annotate_layer(copy, configs[layer.name])

    with quantize.quantize_scope(custom_objects):
        model = tf_keras.models.clone_model(tf_keras_model, clone_function=annotate)
        copies = {copy.name: copy for copy in (getattr(layer, "layer", layer) for layer in model.layers)}
        for layer in tf_keras_model.layers:
            is_batch_norm = _is_standalone_batch_norm(layer)
            weights = _compute_depthwise_conv_weights(layer) if is_batch_norm else layer.get_weights()
            copies[layer.name].set_weights(weights)
        wrapped = quantize.quantize_apply(model, make_quantize_scheme())
    for name, wrapper in _iterate_quantize_wrappers(wrapped):
        if _is_standalone_batch_norm(tf_keras_model.get_layer(name)):
            # TF-MOT would train the kernel although the layer is not trainable.
            wrapper._non_trainable_weights += wrapper._trainable_weights
            wrapper._trainable_weights = []
        if wrapper._output_quantizers:
            wrapper._output_quantizers = [make_activation_quantizer(update_range=True)]
    _set_ranges(wrapped, _measure_ranges(tf_keras_model, calibration_inputs))
    return wrapped


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    """Copy the trained weights to the tf_keras model, without their rounding."""
    for name, wrapper in _iterate_quantize_wrappers(wrapped_model):
        layer = tf_keras_model.get_layer(name)
        if not _is_standalone_batch_norm(layer):
            # The wrapper replaces the variables of the layer by rounded tensors, so its own weights are read.
            weights = {_get_short_name(weight): weight.numpy() for weight in wrapper.weights}
            for kernel, _, quantizer_weights in wrapper._weight_vars:
                effective_kernel = compute_effective_kernel(kernel, quantizer_weights)
                weights[_get_short_name(kernel)] = np.asarray(effective_kernel)
            layer.set_weights([weights[_get_short_name(weight)] for weight in layer.weights])


def _get_quantized_type(layer: Any) -> str:
    """Return the layer type that is quantized: a standalone batch normalization becomes a depthwise convolution."""
    return "DepthwiseConv2D" if _is_standalone_batch_norm(layer) else type(layer).__name__


def _is_output_quantized(layer: Any) -> bool:
    """Return True if TFLite quantizes the output of a layer.

    TFLite does not quantize an output that it computes in one operation with the next layer.
    """
    kind = type(layer).__name__
    if kind in _SAME_SCALE_LAYERS or kind in ("InputLayer", "Dropout", "Softmax"):
        return False
    if kind == "Activation" and layer.activation.__name__ in _FIXED_RANGE_ACTIVATIONS:
        return False
    following = [node.outbound_layer for node in layer._outbound_nodes]
    if len(following) != 1:
        return True
    next_layer = following[0]
    next_kind = type(next_layer).__name__
    is_relu = next_kind == "ReLU" or (next_kind == "Activation" and next_layer.activation.__name__ == "relu")
    return not (is_relu and kind in _FUSED_WITH_RELU) and next_kind != "Concatenate"


def _is_standalone_batch_norm(layer: Any) -> bool:
    """Return True if a layer is a batch normalization of feature maps, which was not folded into a convolution."""
    return type(layer).__name__ == "BatchNormalization" and len(layer.output.shape) == 4


def _to_depthwise_conv(layer: Any) -> Any:
    """Return the 1 x 1 depthwise convolution that computes a batch normalization, which TFLite can quantize."""
    import tf_keras

    return tf_keras.layers.DepthwiseConv2D(1, name=layer.name, trainable=False)


def _compute_depthwise_conv_weights(layer: Any) -> list[np.ndarray]:
    scale, offset = compute_scale_and_offset(layer)
    return [scale.reshape(1, 1, -1, 1), offset]


def _measure_ranges(
    tf_keras_model: Any, calibration_inputs: Sequence[np.ndarray], batch_size: int = 8
) -> dict[str, tuple[float, float]]:
    """Measure the smallest and the largest output of each layer on calibration samples.

    Ranges are means over batches, so that a single outlier does not widen a range. Ranges of inputs and of layers that
    only scale the inputs are exact, because each input value has its own integer. All ranges include 0.

    Args:
        tf_keras_model: The model.
        calibration_inputs: Inputs (n, ...) of the model, in its order.
        batch_size: Number of samples per batch. Default 8.

    Returns:
        Smallest and largest value by layer name.
    """
    import tensorflow as tf
    import tf_keras

    model = tf_keras.Model(tf_keras_model.inputs, {layer.name: layer.output for layer in tf_keras_model.layers})

    def compute_min_and_max(*inputs: Any) -> dict[str, tuple[Any, Any]]:
        outputs = model(unwrap_single(inputs), training=False)
        return {name: (tf.reduce_min(y), tf.reduce_max(y)) for name, y in outputs.items()}

    run = tf.function(compute_min_and_max)
    batches = [
        run(*(tf.cast(x[start : start + batch_size], tf.float32) for x in calibration_inputs))
        for start in range(0, len(calibration_inputs[0]), batch_size)
    ]
    ranges = {}
    for layer in tf_keras_model.layers:
        low, high = np.array([[float(value) for value in batch[layer.name]] for batch in batches]).T
        is_exact = type(layer).__name__ in ("InputLayer", "Rescaling")
        low = min(low.min() if is_exact else low.mean(), 0.0)
        high = max(high.max() if is_exact else high.mean(), 0.0)
        # Modality masks and gate weights: TFLite needs one scale for all columns of a tensor.
        is_mask = type(layer).__name__ == "InputLayer" and low == 0 and high <= 1
        ranges[layer.name] = (0.0, 1.0) if is_mask else (low, high)
    return ranges


def _set_ranges(wrapped_model: Any, ranges: dict[str, tuple[float, float]]) -> None:
    """Set the ranges of the outputs of layers, and measure those of kernels, which TF-MOT does in training only."""
    inputs = [layer for layer in wrapped_model.layers if type(layer).__name__ == "QuantizeLayer"]
    for layer in inputs:
        layer.quantizer = make_activation_quantizer(update_range=False)
    for name, layer, prefix in [
        *((layer.inbound_nodes[0].inbound_layers.name, layer, layer.name) for layer in inputs),
        *((name, wrapper, "output") for name, wrapper in _iterate_quantize_wrappers(wrapped_model)),
    ]:
        for weight in layer.weights:
            if _get_short_name(weight) == f"{prefix}_min":
                weight.assign(ranges[name][0])
            elif _get_short_name(weight) == f"{prefix}_max":
                weight.assign(ranges[name][1])
    for _, wrapper in _iterate_quantize_wrappers(wrapped_model):
        for kernel, quantizer, quantizer_weights in wrapper._weight_vars:
            quantizer(kernel, training=True, weights=quantizer_weights)


def _iterate_quantize_wrappers(wrapped_model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the quantizing layers and the name of the original layer of each."""
    for layer in wrapped_model.layers:
        if hasattr(layer, "quantize_config"):
            yield layer.layer.name, layer


def _get_short_name(weight: Any) -> str:
    return weight.name.split("/")[-1].split(":")[0]
