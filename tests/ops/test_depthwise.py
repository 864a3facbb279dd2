"""Kernel gradients of wide depthwise convolutions against those of TensorFlow."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core import hardware
from tfx_finetune.ops.depthwise import depthwise_conv2d, use_fast_depthwise_gradients

GRADIENT = "DepthwiseConv2dNativeBackpropFilter"


def random_tensor(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (3, 4), (1, 6), (5, 2)])
def test_gradients_equal_those_of_tensorflow(kernel, stride, padding):
    """Output, input gradient and kernel gradient agree for odd and even sides that are no multiple of the stride."""
    x, weights = random_tensor(3, 8, 11, 4), random_tensor(*kernel, 4, 1)
    results = []
    for run in (
        lambda x, weights: depthwise_conv2d(x, weights, stride, padding),
        lambda x, weights: tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], padding),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            y = run(x, weights)
            loss = tf.reduce_sum(y * random_tensor(*y.shape))
        results.append((y, *tape.gradient(loss, [x, weights])))
    for value, reference in zip(*results, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)


def build_network():
    """A model with a frozen wide, a trainable wide and a trainable narrow depthwise convolution."""
    inputs = x = keras.Input((9, 10, 6))
    x = keras.layers.DepthwiseConv2D(5, padding="same", trainable=False)(x)
    x = keras.layers.DepthwiseConv2D(5, strides=2, padding="same", activation="relu6", name="wide")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def gradient_widths(model):
    """Return the columns of the kernel gradients in the graph of a training step; frozen kernels have none."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_weights)

    graph = step.get_concrete_function(tf.TensorSpec((4, 9, 10, 6))).graph
    return sorted(int(tf.get_static_value(op.inputs[1])[1]) for op in graph.get_operations() if op.type == GRADIENT)


@pytest.mark.skipif(hardware.detect().device != "cpu", reason="only replaced on a CPU")
def test_fast_gradients_are_used_inside_the_block_only():
    """Only trainable wide kernels are split into columns, and the layers are restored afterwards."""
    model = build_network()
    before = gradient_widths(model)
    with use_fast_depthwise_gradients(model):
        during = gradient_widths(model)
    assert (before, during, gradient_widths(model)) == ([3, 5, 5], [2, 3, 3, 5], [3, 5, 5])
    assert all("call" not in vars(layer) for layer in model.layers)


def test_training_with_fast_gradients_gives_the_same_weights():
    """Three epochs of `fit` give the same weights with and without fast gradients."""
    model = build_network()
    initial, results = model.get_weights(), []
    for is_fast in (False, True):
        model.set_weights(initial)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        with use_fast_depthwise_gradients(model) if is_fast else contextlib.nullcontext():
            model.fit(random_tensor(64, 9, 10, 6), random_tensor(64, 6), epochs=3, shuffle=False, verbose=0)
        results.append(model.get_weights())
    changes = [np.abs(after - before).max() for after, before in zip(results[0], initial, strict=True)]
    assert sum(change > 1e-3 for change in changes) == 3
    for weights, fast_weights in zip(*results, strict=True):
        np.testing.assert_allclose(weights, fast_weights, atol=1e-6)
