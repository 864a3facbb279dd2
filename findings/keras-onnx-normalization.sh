#!/bin/sh
# Keras exports the mean and the variance of a Normalization layer as inputs of the ONNX file.
#
# A good engineer would expect:
#   The file has the model's inputs and no others; the numbers of a Normalization layer are constants
#   in it, as they are in the SavedModel and in the TFLite file.
# What happens:
#   They become required inputs without default values. Their names are those of operations inside the
#   layer. A client that feeds what the model takes gets an error. export() says nothing. It makes no
#   difference whether adapt() measured the numbers or the constructor was given them. With NumPy
#   arrays in their place the file has one input.
# What to do:
#   Put NumPy arrays in the place of layer.mean and layer.variance before the export.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 tf2onnx==1.17.0 onnx==1.23.2
#   onnxruntime==1.32.0 numpy==2.4.6
# Output:
#   as built: inputs ['given', 'functional_1/normalization_1/Sub/y:0', 'functional_1/normalization_1/Sqrt/x:0']; ONNX Runtime, fed with `given`: ValueError: Required inputs
#   as arrays: inputs ['given']; ONNX Runtime, fed with `given`: right: True
set -eu
pins="tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6"
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
import onnxruntime

sample = np.ones((1, 3), np.float32)
seen = {}
for name in ("as built", "as arrays"):
    given = keras.Input((3,), name="given")
    layer = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])
    model = keras.Model(given, layer(given))
    if name == "as arrays":
        layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    wanted = model(sample).numpy()
    model.export("model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    try:
        right = bool(np.allclose(session.run(None, {"given": sample})[0], wanted, atol=1e-6))
        says = f"right: {right}"
    except ValueError as error:
        right, says = False, f"{type(error).__name__}: {str(error)[:15]}"
    seen[name] = (len(inputs), right)
    print(f"{name}: inputs {inputs}; ONNX Runtime, fed with `given`: {says}")
assert seen == {"as built": (3, False), "as arrays": (1, True)}, seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
