"""Compare gradients of wide depthwise kernels: computed by columns, and by TensorFlow.

    python benchmarks/depthwise.py

Writes milliseconds (median of 30) of the gradients of input and kernel for a batch into benchmarks/RESULTS.md.
"""

import statistics
from collections.abc import Callable

import tensorflow as tf
from results import record

from tfx_finetune.core.probe import measure_latencies
from tfx_finetune.ops.depthwise import depthwise_conv2d

# Batch size, image size, channels, kernel size, stride: EfficientNet-Lite0 at 224 pixels and ConvNeXt's last stage.
_CASES = [(32, 7, 1152, 5, 1), (32, 14, 672, 5, 1), (32, 14, 672, 5, 2), (32, 28, 240, 5, 1), (32, 7, 768, 7, 1)]


def main() -> None:
    """Measure every case and write the table."""
    rows = [
        "| batch x height x width x channels | kernel | stride | TensorFlow, ms | columns, ms | ratio |",
        "|" + "---|" * 6,
    ]
    for batch, image_size, channels, kernel_size, stride in _CASES:
        x, kernel = (
            tf.random.normal((batch, image_size, image_size, channels)),
            tf.random.normal((kernel_size, kernel_size, channels, 1)),
        )
        tensorflow_ms, columns_ms = (
            measure_gradients(_convolve_with_tensorflow, x, kernel, stride),
            measure_gradients(depthwise_conv2d, x, kernel, stride),
        )
        shape = f"{batch} x {image_size} x {image_size} x {channels}"
        rows.append(
            f"| {shape} | {kernel_size} x {kernel_size} | {stride} "
            f"| {tensorflow_ms:.1f} | {columns_ms:.1f} | {tensorflow_ms / columns_ms:.1f} |"
        )
    record("depthwise", "Gradients of depthwise kernels", "\n".join(rows))


def _convolve_with_tensorflow(x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding)


def measure_gradients(
    convolve: Callable[[tf.Tensor, tf.Tensor, int, str], tf.Tensor], x: tf.Tensor, kernel: tf.Tensor, stride: int
) -> float:
    """Return the milliseconds of both gradients."""

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel, stride, "SAME")
        return tape.gradient(y, [x, kernel])

    return statistics.median(measure_latencies(step, 30))


if __name__ == "__main__":
    main()
