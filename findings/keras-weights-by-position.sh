#!/bin/sh
# Keras's .weights.h5 files ignore the names of layers.
#
# A good engineer would expect:
#   Weights go to the layer that has the same name, and names that differ are an error: layers have
#   unique names, and load_weights() says what does not match.
# What happens:
#   A file has the class of each layer and a number. Two models whose layers bear the same names, one
#   behind the other in exchanged order, load each other's file without a message, and `first` then
#   has the weights of `second`. Names that do not exist in the model are accepted too. Only a
#   difference of shapes or of the number of layers is an error.
# What to do:
#   Compare the model's answers, or keep names beside the file.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   groups in the file: dense dense_1
#   `first` got the weights of `first`: False
#   `first` got the weights of `second`: True
#   `encoder`, of which the file knows nothing, got those of `first`: True
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
import h5py
import keras
import numpy as np


def stack(*names):
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)])


def kernel(model, name):
    return model.get_layer(name).kernel.numpy()


saved = stack("first", "second")
saved.save_weights("saved.weights.h5")
with h5py.File("saved.weights.h5") as file:
    print("groups in the file:", *file["layers"])
exchanged, others = stack("second", "first"), stack("encoder", "decoder")
exchanged.load_weights("saved.weights.h5")
others.load_weights("saved.weights.h5")
same = bool(np.array_equal(kernel(exchanged, "first"), kernel(saved, "first")))
swapped = bool(np.array_equal(kernel(exchanged, "first"), kernel(saved, "second")))
taken = bool(np.array_equal(kernel(others, "encoder"), kernel(saved, "first")))
print("`first` got the weights of `first`:", same)
print("`first` got the weights of `second`:", swapped)
print("`encoder`, of which the file knows nothing, got those of `first`:", taken)
assert (same, swapped, taken) == (False, True, True)
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
