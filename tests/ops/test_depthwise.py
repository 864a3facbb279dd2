"""The gradient of wide depthwise kernels by columns, beside TensorFlow's own."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.ops.depthwise import depthwise_conv2d, use_fast_depthwise_gradients

GRADIENT = "DepthwiseConv2dNativeBackpropFilter"


def drawn(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (3, 4), (1, 6), (5, 2)])
def test_gradients_are_those_of_tensorflow(kernel, stride, padding):
    """Of what goes in and of the kernel, where sides are odd and even, and no multiple of the stride."""
    x, weights = drawn(3, 8, 11, 4), drawn(*kernel, 4, 1)
    found = []
    for run in (
        lambda x, weights: depthwise_conv2d(x, weights, stride, padding),
        lambda x, weights: tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], padding),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            y = run(x, weights)
            loss = tf.reduce_sum(y * drawn(*y.shape))
        found.append((y, *tape.gradient(loss, [x, weights])))
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def network():
    """A wide depthwise convolution that is trained, a frozen one, and a narrow one."""
    inputs = x = keras.Input((9, 10, 6))
    x = keras.layers.DepthwiseConv2D(5, padding="same", trainable=False)(x)
    x = keras.layers.DepthwiseConv2D(5, strides=2, padding="same", activation="relu6", name="wide")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def widths(model):
    """Columns of the kernel gradients in the graph of a training step; that of the frozen kernel is never computed."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_weights)

    graph = step.get_concrete_function(tf.TensorSpec((4, 9, 10, 6))).graph
    return sorted(int(tf.get_static_value(op.inputs[1])[1]) for op in graph.get_operations() if op.type == GRADIENT)


@pytest.mark.skipif(hardware.detect().device != "cpu", reason="a graphics card has its own way")
def test_a_phase_has_them_and_leaves_nothing_behind():
    """Of the kernels that are trained and wide; afterwards, and for exports, layers are what they were."""
    model = network()
    before = widths(model)
    with use_fast_depthwise_gradients(model):
        during = widths(model)
    assert (before, during, widths(model)) == ([3, 5, 5], [2, 3, 3, 5], [3, 5, 5])
    assert all("call" not in vars(layer) for layer in model.layers)


def test_training_comes_to_the_same_weights():
    """Three epochs of Keras's own loop."""
    model = network()
    start, ends = model.get_weights(), []
    for quick in (False, True):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        with use_fast_depthwise_gradients(model) if quick else contextlib.nullcontext():
            model.fit(drawn(64, 9, 10, 6), drawn(64, 6), epochs=3, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    moved = [np.abs(end - begin).max() for end, begin in zip(ends[0], start, strict=True)]
    assert sum(change > 1e-3 for change in moved) == 3
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
