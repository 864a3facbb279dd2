#!/bin/sh
# Keras Hub's enable_lora() freezes a whole backbone without a message where no layer has the names.
#
# A good engineer would expect:
#   enable_lora(rank=4) with the library's own default names adds adapters to each of its backbones,
#   or raises an error if it finds no layer.
# What happens:
#   The names are those of other backbones (query, value, query_dense, value_dense). Those of DINOv3
#   are q_proj and v_proj. The call returns, every weight is frozen, and there is no adapter: 0
#   trainable weights. A misspelt name of one's own does the same. ViT gets its adapters.
# What to do:
#   Count the trainable weights after the call.
# Versions (Python 3.11):
#   keras-hub==0.32.0 tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
# Output:
#   ViT, default names: 22 trainable weights before, 6 after, 4 of adapters; 0 warnings
#   DINOv3, default names: 25 trainable weights before, 0 after, 0 of adapters; 0 warnings
#   DINOv3, q_proj and v_proj: 25 trainable weights before, 6 after, 4 of adapters; 0 warnings
#   ViT, a misspelt name: 22 trainable weights before, 0 after, 0 of adapters; 0 warnings
set -eu
pins="keras-hub==0.32.0 tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6"
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
import warnings

import keras_hub

vit = {"image_shape": (32, 32, 3), "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
dino = {key: value for key, value in vit.items() if key != "mlp_dim"} | {"intermediate_dim": 16}
seen = {}
for name, make, options, names in (
    ("ViT, default names", keras_hub.models.ViTBackbone, vit, None),
    ("DINOv3, default names", keras_hub.models.DINOV3Backbone, dino, None),
    ("DINOv3, q_proj and v_proj", keras_hub.models.DINOV3Backbone, dino, ["q_proj", "v_proj"]),
    ("ViT, a misspelt name", keras_hub.models.ViTBackbone, vit, ["qery"]),
):
    backbone = make(**options)
    before = len(backbone.trainable_weights)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        backbone.enable_lora(4, target_layer_names=names)
    adapters = sum("lora" in weight.path for weight in backbone.trainable_weights)
    seen[name] = (len(backbone.trainable_weights), adapters)
    print(f"{name}: {before} trainable weights before, {seen[name][0]} after, {adapters} of adapters; "
          f"{len(said)} warnings")
    assert before > 10 and not said
assert seen["ViT, default names"][1] > 0 and seen["DINOv3, q_proj and v_proj"][1] > 0
assert seen["DINOv3, default names"] == seen["ViT, a misspelt name"] == (0, 0), seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
