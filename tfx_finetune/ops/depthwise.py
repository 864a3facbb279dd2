"""Layer 1: the gradient of wide depthwise kernels on a CPU, a few columns of the kernel at a time.

TensorFlow computes it by oneDNN, which on a CPU has code of its own for depthwise kernels of up to three columns. Wider
ones it computes as convolutions of 16 groups at once, nearly all of whose products are thrown away, and takes twice as
long (`benchmarks/depthwise.py`).
"""

import contextlib
import functools
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfx_finetune.core import hardware

_COLUMNS_PER_STEP = 3


@contextlib.contextmanager
def use_fast_depthwise_gradients(model: keras.Model) -> Iterator[None]:
    """While this lasts, calls of the model's wide depthwise convolutions have the quick gradient."""
    layers = [layer for layer in model.layers if _is_wide_depthwise(layer)] if hardware.detect().device == "cpu" else []
    for layer in layers:
        layer.call = functools.partial(_call_depthwise, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call")


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """A depthwise convolution whose gradient for the kernel is computed by columns.

    Args:
        x: (batch, height, width, channels), height and width known.
        kernel: (height, width, channels, 1).
        stride: Along both sides.
        padding: SAME or VALID.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, object]:
        strides = [1, stride, stride, 1]

        def gradient(over: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            before = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=over, strides=strides, padding=padding
            )
            return before, _compute_kernel_gradient(x, kernel.shape, over, stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradient

    return run(x, kernel)


def _compute_kernel_gradient(
    x: tf.Tensor, shape: tf.TensorShape, upstream: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    height, width, channels, _ = shape
    if padding == "SAME":
        places = zip(x.shape[1:3], upstream.shape[1:3], (height, width), strict=True)
        more = [max((out - 1) * stride + size - given, 0) for given, out, size in places]
        x = tf.pad(x, [[0, 0], *([both // 2, both - both // 2] for both in more), [0, 0]])
    # What the last of a row's answers sees begins here, where that of the first begins at 0.
    last = (upstream.shape[2] - 1) * stride
    columns = []
    for first in range(0, width, _COLUMNS_PER_STEP):
        count = min(_COLUMNS_PER_STEP, width - first)
        found = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x[:, :, first : first + last + count],
            filter_sizes=[height, count, channels, 1],
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding="VALID",
        )
        columns.append(found)
    return tf.concat(columns, 1)


def _is_wide_depthwise(layer: keras.Layer) -> bool:
    if not isinstance(layer, keras.layers.DepthwiseConv2D) or not layer.trainable:
        return False
    plain = layer.data_format == "channels_last" and layer.depth_multiplier == 1
    steps = layer.strides[0] == layer.strides[1] and set(layer.dilation_rate) == {1}
    known = layer.compute_dtype == "float32" and None not in layer.input.shape[1:3]
    return plain and steps and known and layer.kernel_size[1] > _COLUMNS_PER_STEP


def _call_depthwise(layer: keras.layers.DepthwiseConv2D, inputs: tf.Tensor) -> tf.Tensor:
    kernel = keras.ops.convert_to_tensor(layer.kernel)
    x = depthwise_conv2d(inputs, kernel, layer.strides[0], layer.padding.upper())
    x = keras.ops.add(x, layer.bias) if layer.use_bias else x
    return x if layer.activation is None else layer.activation(x)
