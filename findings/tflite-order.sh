#!/bin/sh
# A TFLite file has the inputs and outputs of a Keras model in another order.
#
# A good engineer would expect:
#   get_input_details() and get_output_details() follow the order of model.inputs and model.outputs.
#   The example code for LiteRT takes them by position.
# What happens:
#   Both orders are the converter's own. Inputs of one shape are exchanged without an error. Names of
#   outputs, such as StatefulPartitionedCall_1:1, do not tell which is which. The signature's names
#   do, and with them the answers are right.
# What to do:
#   Use get_signature_runner() and names.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   inputs, in the file's order: in5:0 in7:0 in2:0 in3:0 in8:0 in10:0 in6:0 in4:0 in0:0 in11:0 in1:0 in9:0
#   the model gives              0 101 202 303 404 505 606 707 808 909 1010 1111
#   the file gives, by position  1109 704 1001 107 5 303 800 202 408 911 510 606
#   the file gives, by name      0 101 202 303 404 505 606 707 808 909 1010 1111
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
from ai_edge_litert.interpreter import Interpreter

COUNT = 12
given = [keras.Input((1,), name=f"in{number}") for number in range(COUNT)]
model = keras.Model(given, [x * 100.0 + number for number, x in enumerate(given)])
model.export("model.tflite", format="litert", verbose=False)
interpreter = Interpreter("model.tflite")
interpreter.allocate_tensors()
samples = {f"in{number}": np.full((1, 1), number, np.float32) for number in range(COUNT)}
wanted = [101.0 * number for number in range(COUNT)]
assert [float(value[0, 0]) for value in model(list(samples.values()))] == wanted
for detail, value in zip(interpreter.get_input_details(), samples.values()):
    interpreter.set_tensor(detail["index"], value)
interpreter.invoke()
by_position = [float(interpreter.get_tensor(detail["index"])[0, 0]) for detail in interpreter.get_output_details()]
answers = interpreter.get_signature_runner("serving_default")(**samples)
by_name = [float(answers[f"output_{number}"][0, 0]) for number in range(COUNT)]
names = [detail["name"].removeprefix("serving_default_") for detail in interpreter.get_input_details()]
print("inputs, in the file's order:", *names)
print("the model gives             ", *(f"{value:.0f}" for value in wanted))
print("the file gives, by position ", *(f"{value:.0f}" for value in by_position))
print("the file gives, by name     ", *(f"{value:.0f}" for value in by_name))
assert by_position != wanted
assert by_name == wanted
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
