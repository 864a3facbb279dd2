"""Quantization-aware training: the network learns with the rounding of int8 in it (Jacob et al., arXiv 1712.05877)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfx_finetune.compression.fold_batch_norm import compute_scale_and_offset
from tfx_finetune.compression.tf_keras_bridge import unwrap_single
from tfx_finetune.types.components import COMPRESSIONS
from tfx_finetune.types.deployment import Compression

# Layers of one range: what comes out has the scale of what goes in.
_POOLING = ("MaxPooling2D", "GlobalMaxPooling2D", "AveragePooling2D", "AveragePooling1D")
_SAME_SCALE_LAYERS = ("ZeroPadding2D", "Cropping2D", "Reshape", "Flatten", "Permute", *_POOLING)
# Rounded where they come out, while their own arithmetic stays float, for TFLite has no int8 kernel for it.
_FLOAT_LAYERS = ("LayerNormalization",)
_FUSED_WITH_RELU = ("Conv2D", "DepthwiseConv2D", "Dense", "Add")
_FIXED_RANGE_ACTIVATIONS = ("linear", "sigmoid", "softmax", "tanh")
# What a kernel of few values is made of: the values, which one each weight has, and which of them are not zero.
_CLUSTER_VALUES, _CLUSTER_INDICES, _NONZERO_MASK = "cluster_values", "cluster_members", "cluster_free"
_EMA_DECAY = 0.95
_KERNEL_NAMES = {"Conv2D": "kernel", "DepthwiseConv2D": "depthwise_kernel", "Dense": "kernel"}


@COMPRESSIONS.register
def qat(epochs: int = 3, learning_rate: float = 1e-4) -> Compression:
    """Trains on with weights and activations rounded to 8 bits; `tflite(quantize='int8')` then takes over the ranges.

    Weights that `prune()` set to zero stay zero (PQAT), those that `cluster()` gave few values keep them (CQAT), both
    together (PCQAT). The ranges of the activations begin at those of calibration samples, and follow the last twenty
    batches. TF-MOT's own begin at -6 to 6 and follow the last thousand, which is more than most fine-tuning has.

    Args:
        epochs: Passes over the training samples; with 0 the ranges are measured, and no weight changes.
        learning_rate: Peak of the cosine.
    """
    return Compression(
        "qat", epochs, learning_rate, _wrap, _strip, list, restore_best_weights=True, float_layers=_FLOAT_LAYERS
    )


def _wrap(tf_keras_model: Any, steps: int, calibration_inputs: Sequence[np.ndarray], previous: Sequence[str]) -> Any:
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quantize
    from tf_keras.src.applications.convnext import LayerScale

    configs = {layer.name: _make_quantize_config(layer, previous) for layer in tf_keras_model.layers}
    custom = {type(config).__name__: type(config) for config in configs.values()} | {"LayerScale": LayerScale}

    def annotated(layer: Any) -> Any:
        copy = (
            _to_depthwise_conv(layer)
            if _is_standalone_batch_norm(layer)
            else type(layer).from_config(layer.get_config())
        )
        return quantize.quantize_annotate_layer(copy, configs[layer.name])

    with quantize.quantize_scope(custom):
        model = tf_keras.models.clone_model(tf_keras_model, clone_function=annotated)
        copies = {copy.name: copy for copy in (getattr(layer, "layer", layer) for layer in model.layers)}
        for layer in tf_keras_model.layers:
            copies[layer.name].set_weights(
                _compute_depthwise_conv_weights(layer) if _is_standalone_batch_norm(layer) else layer.get_weights()
            )
        wrapped = quantize.quantize_apply(model, _make_quantize_scheme())
    for name, wrapper in _iterate_quantize_wrappers(wrapped):
        if _is_standalone_batch_norm(tf_keras_model.get_layer(name)):
            # TF-MOT would train the kernel of a frozen layer too.
            wrapper._non_trainable_weights += wrapper._trainable_weights
            wrapper._trainable_weights = []
        if wrapper._output_quantizers:
            wrapper._output_quantizers = [_make_activation_quantizer(update_range=True)]
    _set_ranges(wrapped, _measure_ranges(tf_keras_model, calibration_inputs))
    return wrapped


def _strip(wrapped_model: Any, tf_keras_model: Any) -> None:
    """Gives the twin the trained weights."""
    for name, wrapper in _iterate_quantize_wrappers(wrapped_model):
        layer = tf_keras_model.get_layer(name)
        if not _is_standalone_batch_norm(layer):
            # The wrapper has put rounded tensors in the place of the layer's own variables.
            found = {_get_short_name(weight): weight.numpy() for weight in wrapper.weights}
            for kernel, _, parts in wrapper._weight_vars:
                found[_get_short_name(kernel)] = np.asarray(_compute_effective_kernel(kernel, parts))
            layer.set_weights([found[_get_short_name(weight)] for weight in layer.weights])


def _make_quantize_config(layer: Any, previous: Sequence[str]) -> Any:
    """How a layer of the twin is rounded: kernels to int8 of a scale a channel, outputs where TFLite rounds them."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as outputs,
    )

    kind, rounded = (
        "DepthwiseConv2D" if _is_standalone_batch_norm(layer) else type(layer).__name__,
        _is_output_quantized(layer),
    )
    if kind not in _KERNEL_NAMES:
        return outputs.Default8BitOutputQuantizeConfig() if rounded else outputs.NoOpQuantizeConfig()
    kept = previous if kind in ("Conv2D", "Dense") else ()
    return _make_kernel_config_class(kind, kept)([_KERNEL_NAMES[kind]], [], rounded)


def _make_kernel_config_class(kind: str, previous: Sequence[str]) -> type:
    """The kind of config of a kernel: its own scale a channel, and what earlier compressions did to it kept."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry as configs,
    )

    config, quantizer = configs.Default8BitQuantizeConfig, _make_kernel_quantizer_class(kind, previous)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        config.__init__(self, *args, **kwargs)
        self.weight_quantizer = quantizer(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

    # A class of its own: TF-MOT makes every config again from its class and options, which have no quantizer.
    return type(f"Kernel{kind}Config", (config,), {"__init__": init})


def _make_kernel_quantizer_class(kind: str, previous: Sequence[str]) -> type:
    """The kind of quantizer of a kernel."""
    import tensorflow as tf
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops, quantizers

    class Kernel(quantizers.LastValueQuantizer):
        """Rounds to -127 to 127, symmetric; trains the few values of a clustered kernel in place of its weights.

        TF-MOT's own has one scale for all of a depthwise kernel, whose channels are of very different sizes once
        normalization is folded in; and for CQAT it takes minutes and gigabytes.
        """

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            kernel = getattr(layer.layer, name).numpy()
            parts: dict[str, Any] = {}
            if "cluster" in previous:
                values, members = np.unique(kernel, return_inverse=True)
                start = tf_keras.initializers.Constant(values)
                parts[_CLUSTER_VALUES] = layer.add_weight(
                    _CLUSTER_VALUES, values.shape, initializer=start, trainable=True
                )
                parts[_CLUSTER_INDICES] = tf.constant(members.reshape(kernel.shape))
                parts[_NONZERO_MASK] = tf.constant((values != 0).astype(np.float32))
            elif "prune" in previous:
                parts[_NONZERO_MASK] = tf.constant((kernel != 0).astype(np.float32))
            return parts | self._add_range_weights(layer, name, self.per_axis, _move_channels_last(kernel, kind).shape)

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            kernel, low, high = _compute_effective_kernel(inputs, weights), weights["min_var"], weights["max_var"]
            rows = _move_channels_last(kernel, kind)
            if training:
                rounded = quant_ops.LastValueQuantize(
                    rows, low, high, per_channel=True, symmetric=True, narrow_range=True
                )
            else:
                # Constants in the end, which TFLite stores as the integers that they are multiples of. It has no way to
                # take over a rounding of a depthwise kernel by channels.
                step = high / 127
                rounded = tf.clip_by_value(tf.round(tf.math.divide_no_nan(rows, step)), -127.0, 127.0) * step
            return tf.reshape(rounded, kernel.shape)

    return Kernel


def _move_channels_last(kernel: Any, kind: str) -> Any:
    """A kernel, the channels that go out of it on its last axis; they are on two of a depthwise one's."""
    import tensorflow as tf

    *_, width, channels = kernel.shape
    return tf.reshape(kernel, (-1, width * channels)) if kind == "DepthwiseConv2D" else tf.convert_to_tensor(kernel)


def _compute_effective_kernel(kernel: Any, parts: dict[str, Any]) -> Any:
    """A kernel made of its values, where it was clustered; else the kernel itself, its zeros kept."""
    import tensorflow as tf

    if _CLUSTER_VALUES in parts:
        return tf.gather(parts[_CLUSTER_VALUES] * parts[_NONZERO_MASK], parts[_CLUSTER_INDICES])
    return kernel * parts[_NONZERO_MASK] if _NONZERO_MASK in parts else kernel


def _is_output_quantized(layer: Any) -> bool:
    """Whether TFLite rounds what a layer gives: not what it computes in one operation with the next layer."""
    kind = type(layer).__name__
    if kind in _SAME_SCALE_LAYERS or kind in ("InputLayer", "Dropout", "Softmax"):
        return False
    if kind == "Activation" and layer.activation.__name__ in _FIXED_RANGE_ACTIVATIONS:
        return False
    following = [node.outbound_layer for node in layer._outbound_nodes]
    if len(following) != 1:
        return True
    after = following[0]
    follower = type(after).__name__
    rectified = follower == "ReLU" or (follower == "Activation" and after.activation.__name__ == "relu")
    return not (rectified and kind in _FUSED_WITH_RELU) and follower != "Concatenate"


def _is_standalone_batch_norm(layer: Any) -> bool:
    """Whether a layer is a normalization of feature maps: one that no convolution before it could take in."""
    return type(layer).__name__ == "BatchNormalization" and len(layer.output.shape) == 4


def _to_depthwise_conv(layer: Any) -> Any:
    """A normalization as the depthwise convolution of 1 x 1 that it is in inference, which TFLite can round."""
    import tf_keras

    return tf_keras.layers.DepthwiseConv2D(1, name=layer.name, trainable=False)


def _compute_depthwise_conv_weights(layer: Any) -> list[np.ndarray]:
    scale, offset = compute_scale_and_offset(layer)
    return [scale.reshape(1, 1, -1, 1), offset]


def _make_quantize_scheme() -> Any:
    """TF-MOT's 8 bits without its search for patterns of layers: which are computed as one is known here already.

    Its pattern of a convolution and a rectifier would leave the kernel unrounded.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quantize_layout_transform
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
        default_8bit_transforms,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import model_transformer

    class Layout(quantize_layout_transform.QuantizeLayoutTransform):
        def apply(self, model: Any, layer_quantize_map: Any) -> Any:
            transforms = [default_8bit_transforms.InputLayerQuantize()]
            return model_transformer.ModelTransformer(
                model, transforms, set(layer_quantize_map.keys()), layer_quantize_map
            ).transform()

    class Scheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):
        def get_layout_transformer(self) -> Any:
            return Layout()

    return Scheme()


def _measure_ranges(
    tf_keras_model: Any, calibration_inputs: Sequence[np.ndarray], batch_size: int = 8
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of what each layer gives, 0 among them.

    Means over batches, so that one odd sample does not widen a range; of the input and of what only scales it, the
    extremes, for there each value that occurs has its own integer.
    """
    import tensorflow as tf
    import tf_keras

    model = tf_keras.Model(tf_keras_model.inputs, {layer.name: layer.output for layer in tf_keras_model.layers})
    run = tf.function(
        lambda *x: {
            name: (tf.reduce_min(y), tf.reduce_max(y)) for name, y in model(unwrap_single(x), training=False).items()
        }
    )
    count = len(calibration_inputs[0])
    found = [
        run(*(tf.cast(x[at : at + batch_size], tf.float32) for x in calibration_inputs))
        for at in range(0, count, batch_size)
    ]
    ranges = {}
    for layer in tf_keras_model.layers:
        low, high = np.array([[float(value) for value in one[layer.name]] for one in found]).T
        exact = type(layer).__name__ in ("InputLayer", "Rescaling")
        low, high = min(low.min() if exact else low.mean(), 0.0), max(high.max() if exact else high.mean(), 0.0)
        # Which towers are there, and how much each counts, are columns of one tensor, of which TFLite wants one scale.
        shares = type(layer).__name__ == "InputLayer" and low == 0 and high <= 1
        ranges[layer.name] = (0.0, 1.0) if shares else (low, high)
    return ranges


def _make_activation_quantizer(update_range: bool) -> Any:
    """Rounds to a range that follows training within some twenty batches, or that stays as it was measured."""
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops, quantizers

    class Rounding(quantizers.MovingAverageQuantizer):
        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            low, high = weights["min_var"], weights["max_var"]
            return quant_ops.MovingAvgQuantize(
                inputs, low, high, ema_decay=_EMA_DECAY, is_training=update_range and training
            )

    return Rounding(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)


def _set_ranges(wrapped_model: Any, ranges: dict[str, tuple[float, float]]) -> None:
    """Sets the ranges of what layers give, and of their kernels, which TF-MOT measures at training steps alone."""
    inputs = [layer for layer in wrapped_model.layers if type(layer).__name__ == "QuantizeLayer"]
    for layer in inputs:
        layer.quantizer = _make_activation_quantizer(update_range=False)
    for name, layer, stem in [
        *((layer.inbound_nodes[0].inbound_layers.name, layer, layer.name) for layer in inputs),
        *((name, wrapper, "output") for name, wrapper in _iterate_quantize_wrappers(wrapped_model)),
    ]:
        for weight in layer.weights:
            if _get_short_name(weight) == f"{stem}_min":
                weight.assign(ranges[name][0])
            elif _get_short_name(weight) == f"{stem}_max":
                weight.assign(ranges[name][1])
    for _, wrapper in _iterate_quantize_wrappers(wrapped_model):
        for kernel, quantizer, parts in wrapper._weight_vars:
            quantizer(kernel, training=True, weights=parts)


def _iterate_quantize_wrappers(wrapped_model: Any) -> Iterator[tuple[str, Any]]:
    """Rounding layers by the name of the layer in them."""
    for layer in wrapped_model.layers:
        if hasattr(layer, "quantize_config"):
            yield layer.layer.name, layer


def _get_short_name(weight: Any) -> str:
    return weight.name.split("/")[-1].split(":")[0]
