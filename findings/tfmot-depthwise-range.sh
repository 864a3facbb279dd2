#!/bin/sh
# TF-MOT's quantize_model() has one range for all channels of a depthwise kernel.
#
# A good engineer would expect:
#   Kernels have a range a channel: TF-MOT gives Conv2D one, the TFLite format has a scale a channel
#   for depthwise kernels, and the converter's own quantization after training uses it.
# What happens:
#   The depthwise kernel has one range for all. Channels whose weights are small beside the largest
#   are rounded to a few steps or to 0 in training and in the file. Batch normalization that is folded
#   in makes channels differ much. Here, where they differ by up to 128, the smallest channel keeps 1
#   step of 127; quantization after training keeps 127 for each.
# What to do:
#   Give DepthwiseConv2D a QuantizeConfig of one's own.
# Versions (Python 3.11):
#   tensorflow==2.21.0 tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 ai-edge-litert==2.3.0
#   numpy==2.4.6
# Output:
#   ranges of the kernels: {'depthwise': 1, 'pointwise': 4}
#   largest integer a channel, quantization-aware:      [1, 2, 5, 9, 18, 35, 65, 127]
#   largest integer a channel, quantized after training: [127, 127, 127, 127, 127, 127, 127, 127]
set -eu
pins="tensorflow==2.21.0 tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 ai-edge-litert==2.3.0 numpy==2.4.6"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "${FINDINGS_VENVS:-$work}"
venv="$(cd "${FINDINGS_VENVS:-$work}" && pwd)/$(printf '%s' "$pins" | cksum | cut -d ' ' -f 1)"
if [ ! -f "$venv/ready" ]; then
    python3 -m venv --clear "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -qq --disable-pip-version-check $pins
    touch "$venv/ready"
fi
cd "$work"
export CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3
cat >finding.py <<'END'
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from ai_edge_litert.interpreter import Interpreter

layers = tf_keras.layers
given = layers.Input((16, 16, 8))
hidden = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(given)
model = tf_keras.Model(given, layers.Conv2D(4, 1, name="pointwise")(hidden))
random = np.random.default_rng(0)
kernel = random.uniform(-1, 1, (3, 3, 8, 1)) * 2.0 ** np.arange(8)[:, None]
model.get_layer("depthwise").set_weights([kernel, np.zeros(8)])
samples = random.normal(size=(4, 16, 16, 8)).astype(np.float32)
aware = tfmot.quantization.keras.quantize_model(model)
ranges = {
    name: next(w.shape.num_elements() for w in aware.get_layer(f"quant_{name}").weights if "kernel_max" in w.name)
    for name in ("depthwise", "pointwise")
}
aware.compile(tf_keras.optimizers.SGD(0.0), "mse")  # the ranges are measured, the weights stay
aware.fit(samples, np.zeros((4, 16, 16, 4)), verbose=0)


def steps(network, examples=None):
    """The largest integer of each channel of the depthwise kernel in the int8 file."""
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if examples is not None:
        converter.representative_dataset = lambda: ([example[None]] for example in examples)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    tensor = next(
        detail for detail in interpreter.get_tensor_details()
        if detail["shape"].tolist() == [1, 3, 3, 8] and detail["dtype"] is np.int8
    )
    return np.abs(interpreter.get_tensor(tensor["index"]).astype(int)).max((0, 1, 2)).tolist()


trained, after = steps(aware), steps(model, samples)
print("ranges of the kernels:", ranges)
print("largest integer a channel, quantization-aware:     ", trained)
print("largest integer a channel, quantized after training:", after)
assert ranges == {"depthwise": 1, "pointwise": 4}
assert min(trained) <= 4 and after == [127] * 8
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
