#!/bin/sh
# Keras's EfficientNet has one layer more where its weights are called `imagenet`.
#
# A good engineer would expect:
#   `weights` chooses numbers and not the graph: a model that is rebuilt with weights=None and gets
#   the weights of the ImageNet model gives its answers.
# What happens:
#   With weights='imagenet' a second Rescaling layer divides by the root of the standard deviation of
#   ImageNet. With None, or with the path of the same file, it is missing. It has no weights, so the
#   file fits both, and load_weights() says nothing. The answers differ. The script puts a file of
#   random weights in the place of the download.
# What to do:
#   Save the whole model, or build it with weights='imagenet' again.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   weights=imagenet: 239 layers, 2 of them Rescaling; same weights: True; answers differ by 0%
#   weights=path: 238 layers, 1 of them Rescaling; same weights: True; answers differ by 51%
#   weights=None: 238 layers, 1 of them Rescaling; same weights: True; answers differ by 51%
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
from keras.src.applications import efficientnet

OPTIONS = {"include_top": False, "input_shape": (64, 64, 3), "pooling": "avg"}
keras.utils.set_random_seed(0)
keras.applications.EfficientNetB0(weights=None, **OPTIONS).save_weights("random.weights.h5")
efficientnet.file_utils.get_file = lambda *names, **options: "random.weights.h5"
models = {
    "imagenet": keras.applications.EfficientNetB0(weights="imagenet", **OPTIONS),
    "path": keras.applications.EfficientNetB0(weights="random.weights.h5", **OPTIONS),
    "None": keras.applications.EfficientNetB0(weights=None, **OPTIONS),
}
models["imagenet"].save_weights("trained.weights.h5")
models["None"].load_weights("trained.weights.h5")
picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
wanted = models["imagenet"](picture).numpy()
for name, model in models.items():
    same = all(map(np.array_equal, model.get_weights(), models["imagenet"].get_weights()))
    apart = np.abs(model(picture).numpy() - wanted).max() / np.abs(wanted).max()
    scaling = sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    print(f"weights={name}: {len(model.layers)} layers, {scaling} of them Rescaling; "
          f"same weights: {same}; answers differ by {apart:.0%}")
    assert same and scaling == (2 if name == "imagenet" else 1)
    assert apart == 0 if name == "imagenet" else apart > 0.1
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
