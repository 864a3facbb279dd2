"""Faster gradient of wide depthwise kernels on a CPU, computed a few kernel columns at a time.

TensorFlow computes the kernel gradient with oneDNN, which has dedicated CPU code for depthwise kernels of up to three
columns. It computes wider kernels as convolutions of 16 groups at once, discards nearly all of the products and takes
twice as long (`benchmarks/depthwise.py`).
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
    """Replace the kernel gradient of a model's wide depthwise convolutions inside the `with` block.

    Args:
        model: Model to train. Its layers are restored on exit. On other devices than a CPU nothing is replaced.
    """
    layers = [layer for layer in model.layers if _is_wide_depthwise(layer)] if hardware.detect().device == "cpu" else []
    for layer in layers:
        layer.call = functools.partial(_call_depthwise, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call")


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """Compute a depthwise convolution with a kernel gradient by columns.

    Args:
        x: float32 (batch, height, width, channels) of static height and width.
        kernel: float32 (height, width, channels, 1).
        stride: int >= 1, along both sides.
        padding: SAME or VALID.
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, object]:
        strides = [1, stride, stride, 1]

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            input_gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, strides=strides, padding=padding
            )
            return input_gradient, _compute_kernel_gradient(x, kernel.shape, upstream, stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradient

    return run(x, kernel)


def _compute_kernel_gradient(
    x: tf.Tensor, shape: tf.TensorShape, upstream: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    height, width, channels, _ = shape
    if padding == "SAME":
        sides = zip(x.shape[1:3], upstream.shape[1:3], (height, width), strict=True)
        totals = [max((outputs - 1) * stride + size - inputs, 0) for inputs, outputs, size in sides]
        x = tf.pad(x, [[0, 0], *([total // 2, total - total // 2] for total in totals), [0, 0]])
    # Input column at which the window of the last output of a row starts; that of the first output starts at 0.
    last_start = (upstream.shape[2] - 1) * stride
    columns = []
    for start in range(0, width, _COLUMNS_PER_STEP):
        count = min(_COLUMNS_PER_STEP, width - start)
        gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x[:, :, start : start + last_start + count],
            filter_sizes=[height, count, channels, 1],
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding="VALID",
        )
        columns.append(gradient)
    return tf.concat(columns, 1)


def _is_wide_depthwise(layer: keras.Layer) -> bool:
    if not isinstance(layer, keras.layers.DepthwiseConv2D) or not layer.trainable:
        return False
    has_plain_layout = layer.data_format == "channels_last" and layer.depth_multiplier == 1
    has_plain_steps = layer.strides[0] == layer.strides[1] and set(layer.dilation_rate) == {1}
    has_static_input = layer.compute_dtype == "float32" and None not in layer.input.shape[1:3]
    return has_plain_layout and has_plain_steps and has_static_input and layer.kernel_size[1] > _COLUMNS_PER_STEP


def _call_depthwise(layer: keras.layers.DepthwiseConv2D, inputs: tf.Tensor) -> tf.Tensor:
    kernel = keras.ops.convert_to_tensor(layer.kernel)
    x = depthwise_conv2d(inputs, kernel, layer.strides[0], layer.padding.upper())
    x = keras.ops.add(x, layer.bias) if layer.use_bias else x
    return x if layer.activation is None else layer.activation(x)
