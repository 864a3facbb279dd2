#!/bin/sh
# TensorFlow converts a tf.Module that holds a Keras 3 model to a TFLite file without weights.
#
# A good engineer would expect:
#   The converter writes the weights, or raises an error: the SavedModel of the same module gives the
#   model's outputs.
# What happens:
#   The file is smaller than the weights, opens and runs, and its outputs are not those of the model.
#   They are often NaN. Neither conversion nor loading says anything. The same model through
#   keras.export.ExportArchive, and through from_keras_model, is right.
# What to do:
#   Compare the file's outputs with the model's after every conversion.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   bytes of the weights: 267280
#   module: SavedModel right, TFLite file of 2560 bytes, its outputs right: False
#   archive: SavedModel right, TFLite file of 268188 bytes, its outputs right: True
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
model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(4)])
sample = np.random.default_rng(0).normal(size=(1, 256)).astype(np.float32)
wanted = model(sample).numpy()


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec((1, 256))])
    def __call__(self, x):
        return self.model(x)


tf.saved_model.save(Module(), "module")
archive = keras.export.ExportArchive()
archive.track(model)
archive.add_endpoint("run", model, [tf.TensorSpec((1, 256))])
archive.write_out("archive", verbose=False)
print("bytes of the weights:", 4 * model.count_params())
right = {}
for name in ("module", "archive"):
    saved = tf.saved_model.load(name)
    answer = (saved if name == "module" else saved.run)(sample).numpy()
    assert np.allclose(answer, wanted, atol=1e-5)
    content = tf.lite.TFLiteConverter.from_saved_model(name).convert()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    right[name] = bool(np.allclose(found, wanted, atol=1e-4))
    print(f"{name}: SavedModel right, TFLite file of {len(content)} bytes, its outputs right: {right[name]}")
    assert (len(content) > 4 * model.count_params()) == right[name]
assert right == {"module": False, "archive": True}
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
