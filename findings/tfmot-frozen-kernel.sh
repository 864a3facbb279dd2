#!/bin/sh
# TF-MOT's quantize_model() trains the kernels of frozen layers.
#
# A good engineer would expect:
#   A layer that is not trainable stays as it is: the wrapper of quantization-aware training passes
#   its `trainable` on, and prune_low_magnitude() does.
# What happens:
#   The wrapper says trainable=False, like the layer, and has the kernel among its trainable weights
#   all the same. fit() changes it; the bias stays. In transfer learning a frozen backbone is trained
#   by the rate that was meant for the head.
# What to do:
#   Move the wrapper's trainable weights to those that are not.
# Versions (Python 3.11):
#   tensorflow==2.21.0 tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 ai-edge-litert==2.3.0
#   numpy==2.4.6
# Output:
#   trainable weights of the model:  ['head/bias', 'head/kernel']
#   of the pruned model:             ['head/bias', 'head/kernel']
#   of the quantized model:          ['frozen/kernel', 'head/bias', 'head/kernel']
#   the wrapper's trainable: False; largest change of the frozen kernel: 0.0021
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
import tensorflow_model_optimization as tfmot
import tf_keras

given = tf_keras.layers.Input((8,))
hidden = tf_keras.layers.Dense(8, activation="relu", name="frozen")(given)
model = tf_keras.Model(given, tf_keras.layers.Dense(1, name="head")(hidden))
model.get_layer("frozen").trainable = False
pruned = tfmot.sparsity.keras.prune_low_magnitude(model)
quantized = tfmot.quantization.keras.quantize_model(model)
wrapper = quantized.get_layer("quant_frozen")


def trained(network):
    return sorted(weight.name.split(":")[0] for weight in network.trainable_weights)


def kernel():
    return next(weight.numpy() for weight in wrapper.weights if weight.name.startswith("frozen/kernel"))


before = kernel()
random = np.random.default_rng(0)
quantized.compile("sgd", "mse")
quantized.fit(random.random((32, 8)), random.random((32, 1)), epochs=2, verbose=0)
change = float(np.abs(kernel() - before).max())
print("trainable weights of the model: ", trained(model))
print("of the pruned model:            ", trained(pruned))
print("of the quantized model:         ", trained(quantized))
print(f"the wrapper's trainable: {wrapper.trainable}; largest change of the frozen kernel: {change:.4f}")
assert trained(model) == ["head/bias", "head/kernel"] and "frozen/kernel" in trained(quantized)
assert not any("frozen" in name for name in trained(pruned))
assert wrapper.trainable is False and change > 1e-4
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
