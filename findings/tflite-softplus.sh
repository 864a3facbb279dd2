#!/bin/sh
# Softplus is infinite from 89 on in a TFLite file, and 0 below -17.
#
# A good engineer would expect:
#   The file computes softplus as TensorFlow does: tf.math.softplus(100) is 100, and softplus(-20) is
#   2e-9.
# What happens:
#   The converter writes EXP, ADD and LOG. exp(89) is beyond float32, so the output is infinite; 1 +
#   exp(-20) rounds to 1, so the output is 0. Heads that predict a scale or a variance use softplus,
#   and its logarithm is then infinite. Small inputs agree, so a test on usual samples passes.
# What to do:
#   Write softplus(x) as relu(x) + log(1 + exp(-|x|)).
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   input      [-20.0, -5.0, 0.0, 88.0, 100.0]
#   Keras      ['2.061e-09', '0.006715', '0.6931', '88', '100']
#   TFLite     ['0', '0.006715', '0.6931', '88', 'inf']
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

given = keras.Input((5,))
model = keras.Model(given, keras.layers.Activation("softplus")(given))
model.export("saved", verbose=False)
interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model("saved").convert())
interpreter.allocate_tensors()
sample = np.array([[-20, -5, 0, 88, 100]], np.float32)
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
interpreter.invoke()
found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
wanted = model(sample).numpy()[0]
print("input     ", sample[0].tolist())
print("Keras     ", [f"{value:.4g}" for value in wanted])
print("TFLite    ", [f"{value:.4g}" for value in found])
assert np.allclose(wanted[[0, 4]], [2.0611537e-09, 100])
assert np.isinf(found[4]) and found[0] == 0
assert np.allclose(found[1:4], wanted[1:4], rtol=1e-5)
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
