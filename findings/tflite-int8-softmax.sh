#!/bin/sh
# An int8 softmax over 1000 classes gives 0 for every class where none is likely.
#
# A good engineer would expect:
#   The output of an int8 file has a scale that calibration chose from the samples, so that small
#   probabilities are kept, if coarsely; the likeliest class remains the likeliest.
# What happens:
#   The scale of a softmax is fixed at 1/256, whatever calibration saw. Probabilities below 1/512 are
#   0. Of 1000 classes a hesitant answer is 0 throughout, sums up to 0 and names class 0. The logits
#   of the same network keep the order.
# What to do:
#   Let the file give logits, and apply softmax behind it.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   largest probability of each sample, by Keras: 0.0011 to 0.0018
#   int8 softmax: 100% of the samples have 0 for all classes; likeliest class right in 0%
#   int8 logits: likeliest class right in 95%
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
from ai_edge_litert.interpreter import Interpreter

keras.utils.set_random_seed(0)
given = keras.Input((8,))
logits = keras.layers.Dense(1000)(given)
samples = np.random.default_rng(0).normal(size=(100, 1, 8)).astype(np.float32)


def converted(model, folder):
    model.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()

    def run(sample):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]

    return np.stack([run(sample) for sample in samples])


model = keras.Model(given, keras.layers.Softmax()(logits))
wanted = model(samples[:, 0]).numpy()
scores = converted(model, "scores")
raw = converted(keras.Model(given, logits), "logits")
right = [(found.argmax(1) == wanted.argmax(1)).mean() for found in (scores, raw)]
empty = (scores.sum(1) == 0).mean()
print(f"largest probability of each sample, by Keras: {wanted.max(1).min():.4f} to {wanted.max(1).max():.4f}")
print(f"int8 softmax: {empty:.0%} of the samples have 0 for all classes; likeliest class right in {right[0]:.0%}")
print(f"int8 logits: likeliest class right in {right[1]:.0%}")
assert empty > 0.5 and right[0] < 0.5 < 0.8 < right[1]
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
