#!/bin/sh
# Keras exports models of its own operations to files that no runtime can open.
#
# A good engineer would expect:
#   Model.export() raises an error where the format lacks an operation of the model, or spells it out:
#   gelu, a grouped convolution and argmax are Keras's own.
# What happens:
#   export() returns without an error, and the file has operators that do not exist there: Erfc of
#   gelu, and StatefulPartitionedCall of a grouped convolution, in ONNX; Bitcast of argmax in ONNX and
#   FlexBitwiseAnd of it in TFLite, with which Keras tells 0 from -0. ONNX Runtime and LiteRT refuse
#   the files. tf2onnx writes one line to the log for some of them; no wheel of LiteRT has Flex
#   operators.
# What to do:
#   Open and run every exported file.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 tf2onnx==1.17.0 onnx==1.23.2
#   onnxruntime==1.32.0 numpy==2.4.6
# Output:
#   gelu.onnx: written; operators that ONNX lacks: ['Erfc']; ONNX Runtime: InvalidGraph
#   gelu.tflite: written; LiteRT: opens
#   grouped.onnx: written; operators that ONNX lacks: ['StatefulPartitionedCall']; ONNX Runtime: InvalidGraph
#   grouped.tflite: written; LiteRT: opens
#   argmax.onnx: written; operators that ONNX lacks: ['Bitcast']; ONNX Runtime: InvalidGraph
#   argmax.tflite: written; LiteRT: RuntimeError, FlexBitwiseAnd
#   relu.onnx: written; operators that ONNX lacks: []; ONNX Runtime: opens
#   relu.tflite: written; LiteRT: opens
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
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

given, picture = keras.Input((8,)), keras.Input((8, 8, 4))
models = {
    "gelu": keras.Model(given, keras.layers.Dense(4, activation="gelu")(given)),
    "grouped": keras.Model(picture, keras.layers.Conv2D(8, 3, groups=2)(picture)),
    "argmax": keras.Model(picture, keras.ops.argmax(picture, axis=-1)),
    "relu": keras.Model(given, keras.layers.Dense(4, activation="relu")(given)),
}
opened = {}
for name, model in models.items():
    model(np.zeros((1, *model.input_shape[1:]), np.float32))
    model.export(f"{name}.onnx", format="onnx", verbose=False)
    kinds = {node.op_type for node in onnx.load(f"{name}.onnx").graph.node}
    unknown = sorted(kind for kind in kinds if not onnx.defs.has(kind))
    try:
        onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
        says = "opens"
    except Exception as error:
        says = type(error).__name__
    opened[name, "onnx"] = says == "opens"
    print(f"{name}.onnx: written; operators that ONNX lacks: {unknown}; ONNX Runtime: {says}")
    model.export(f"{name}.tflite", format="litert", verbose=False)
    try:
        Interpreter(f"{name}.tflite").allocate_tensors()
        says = "opens"
    except RuntimeError as error:
        says = f"RuntimeError, {str(error).split('(')[-1].split(')')[0]}"
    opened[name, "tflite"] = says == "opens"
    print(f"{name}.tflite: written; LiteRT: {says}")
refused = {key for key, fine in opened.items() if not fine}
assert refused == {("gelu", "onnx"), ("grouped", "onnx"), ("argmax", "onnx"), ("argmax", "tflite")}, refused
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
