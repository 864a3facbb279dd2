#!/bin/sh
# Keras clips gradients on each replica before they are summed.
#
# A good engineer would expect:
#   fit() under MirroredStrategy gives the weights that one device gives for the same global batch,
#   with global_clipnorm as without.
# What happens:
#   Without clipping the weights agree to seven digits. With global_clipnorm, clipnorm or clipvalue
#   each replica clips its own part of the gradient and the clipped parts are added, so that a step
#   has another direction and up to as many times the length as there are replicas. No message says
#   so. Two logical CPU devices are enough to see it.
# What to do:
#   Reduce the gradients first, in a loop of one's own, and clip then.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   no clipping: a step of length 10.124 on one device, 10.124 on two; they differ by 0.0%
#   {'global_clipnorm': 1.0}: a step of length 1.000 on one device, 1.514 on two; they differ by 62.6%
#   {'clipnorm': 1.0}: a step of length 1.414 on one device, 2.372 on two; they differ by 80.5%
#   {'clipvalue': 0.5}: a step of length 1.118 on one device, 1.171 on two; they differ by 83.2%
set -eu
pins="tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6"
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
import keras
import numpy as np
import tensorflow as tf

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(0)
x, y = random.normal(size=(8, 4)).astype("float32"), 10 * random.normal(size=(8, 1)).astype("float32")


def step(strategy, **clipping):
    """How far one step of the same batch moves the weights."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1.0, **clipping), "mse")
    before = np.concatenate([weight.ravel() for weight in model.get_weights()])
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), verbose=0)
    return np.concatenate([weight.ravel() for weight in model.get_weights()]) - before


for clipping in ({}, {"global_clipnorm": 1.0}, {"clipnorm": 1.0}, {"clipvalue": 0.5}):
    one = step(tf.distribute.OneDeviceStrategy("CPU:0"), **clipping)
    two = step(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), **clipping)
    apart = np.linalg.norm(two - one) / np.linalg.norm(one)
    print(f"{clipping or 'no clipping'}: a step of length {np.linalg.norm(one):.3f} on one device, "
          f"{np.linalg.norm(two):.3f} on two; they differ by {apart:.1%}")
    assert apart > 0.1 if clipping else apart < 1e-5
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
