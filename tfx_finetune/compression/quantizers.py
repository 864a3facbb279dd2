"""TF-MOT configs and quantizers of kernels and activations for quantization-aware training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Tensors of a clustered kernel: its values, the index of the value of each weight, and which values are not zero.
_CLUSTER_VALUES, _CLUSTER_INDICES, _NONZERO_MASK = "cluster_values", "cluster_indices", "nonzero_mask"
_EMA_DECAY = 0.95
_KERNEL_NAMES = {"Conv2D": "kernel", "DepthwiseConv2D": "depthwise_kernel", "Dense": "kernel"}


def make_quantize_config(layer_type: str, quantize_output: bool, previous: Sequence[str]) -> Any:
    """Return the TF-MOT config of a layer: kernels in int8 with a scale per channel, and the output if needed.

    Args:
        layer_type: Type of the layer, such as `Conv2D`.
        quantize_output: True if TFLite quantizes the output of the layer.
        previous: Names of earlier compressions, whose zeros and clusters are preserved.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as output_configs,
    )

    if layer_type not in _KERNEL_NAMES:
        if quantize_output:
            return output_configs.Default8BitOutputQuantizeConfig()
        return output_configs.NoOpQuantizeConfig()
    # Pruning and clustering change no depthwise kernels.
    preserved = previous if layer_type in ("Conv2D", "Dense") else ()
    config_class = _make_kernel_config_class(layer_type, preserved)
    return config_class([_KERNEL_NAMES[layer_type]], [], quantize_output)


def _make_kernel_config_class(layer_type: str, previous: Sequence[str]) -> type:
    """Return the TF-MOT config class of a layer with a kernel."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry as configs,
    )

    base = configs.Default8BitQuantizeConfig
    quantizer_class = _make_kernel_quantizer_class(layer_type, previous)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self.weight_quantizer = quantizer_class(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

    # TF-MOT rebuilds a config from its class and options, which do not include the quantizer; so the class sets it.
    return type(f"Kernel{layer_type}Config", (base,), {"__init__": init})


def _make_kernel_quantizer_class(layer_type: str, previous: Sequence[str]) -> type:
    """Return the quantizer class of the kernel of a layer type."""
    import tensorflow as tf
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops, quantizers

    class KernelQuantizer(quantizers.LastValueQuantizer):
        """Symmetric quantizer to -127 to 127 per channel, which trains the values of a clustered kernel.

        TF-MOT's quantizer has one scale for a whole depthwise kernel, whose channels differ much in size after folding
        of batch normalization. For clustered kernels (CQAT), it needs minutes and gigabytes.
        """

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            kernel = getattr(layer.layer, name).numpy()
            weights: dict[str, Any] = {}
            if "cluster" in previous:
                values, indices = np.unique(kernel, return_inverse=True)
                initializer = tf_keras.initializers.Constant(values)
                weights[_CLUSTER_VALUES] = layer.add_weight(
                    _CLUSTER_VALUES, values.shape, initializer=initializer, trainable=True
                )
                weights[_CLUSTER_INDICES] = tf.constant(indices.reshape(kernel.shape))
                weights[_NONZERO_MASK] = tf.constant((values != 0).astype(np.float32))
            elif "prune" in previous:
                weights[_NONZERO_MASK] = tf.constant((kernel != 0).astype(np.float32))
            shape = _flatten_to_channels(kernel, layer_type).shape
            return weights | self._add_range_weights(layer, name, self.per_axis, shape)

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            kernel, low, high = compute_effective_kernel(inputs, weights), weights["min_var"], weights["max_var"]
            rows = _flatten_to_channels(kernel, layer_type)
            if training:
                quantized = quant_ops.LastValueQuantize(
                    rows, low, high, per_channel=True, symmetric=True, narrow_range=True
                )
            else:
                # TFLite stores these constants as integers. It has no per-channel fake quantization of depthwise
                # kernels.
                step = high / 127
                quantized = tf.clip_by_value(tf.round(tf.math.divide_no_nan(rows, step)), -127.0, 127.0) * step
            return tf.reshape(quantized, kernel.shape)

    return KernelQuantizer


def _flatten_to_channels(kernel: Any, layer_type: str) -> Any:
    """Return a kernel with its output channels on the last axis; a depthwise kernel has them on two axes."""
    import tensorflow as tf

    *_, width, channels = kernel.shape
    if layer_type == "DepthwiseConv2D":
        return tf.reshape(kernel, (-1, width * channels))
    return tf.convert_to_tensor(kernel)


def compute_effective_kernel(kernel: Any, weights: dict[str, Any]) -> Any:
    """Return the kernel with the zeros of pruning, or the kernel that the cluster values and indices define.

    Args:
        kernel: Kernel of the layer.
        weights: Tensors that `KernelQuantizer.build` returned.
    """
    import tensorflow as tf

    if _CLUSTER_VALUES in weights:
        return tf.gather(weights[_CLUSTER_VALUES] * weights[_NONZERO_MASK], weights[_CLUSTER_INDICES])
    return kernel * weights[_NONZERO_MASK] if _NONZERO_MASK in weights else kernel


def make_activation_quantizer(update_range: bool) -> Any:
    """Return a quantizer of activations.

    Args:
        update_range: True if the range is a moving average over about twenty training batches; False if it is fixed.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops, quantizers

    class ActivationQuantizer(quantizers.MovingAverageQuantizer):
        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            low, high = weights["min_var"], weights["max_var"]
            return quant_ops.MovingAvgQuantize(
                inputs, low, high, ema_decay=_EMA_DECAY, is_training=update_range and training
            )

    return ActivationQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)


def make_quantize_scheme() -> Any:
    """Return the 8-bit scheme of TF-MOT without its search for layer patterns.

    The configs of the layers already consider which layers are computed together. TF-MOT's pattern of a convolution and
    a ReLU would leave the kernel unquantized.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quantize_layout_transform
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
        default_8bit_transforms,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import model_transformer

    class InputLayout(quantize_layout_transform.QuantizeLayoutTransform):
        def apply(self, model: Any, layer_quantize_map: Any) -> Any:
            transforms = [default_8bit_transforms.InputLayerQuantize()]
            return model_transformer.ModelTransformer(
                model, transforms, set(layer_quantize_map.keys()), layer_quantize_map
            ).transform()

    class InputScheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):
        def get_layout_transformer(self) -> Any:
            return InputLayout()

    return InputScheme()
