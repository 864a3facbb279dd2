#!/bin/sh
# The TFLite converter drops all signatures but one where an endpoint is called `serve`.
#
# A good engineer would expect:
#   Each endpoint of a SavedModel becomes a signature of the file: keras.export.ExportArchive names
#   its default endpoint `serve`, and two endpoints of other names become two signatures.
# What happens:
#   Where one of the endpoints is called `serve`, the file has the signature `serving_default` alone,
#   and no message says that the others are gone. `serving_default` is then the endpoint that was
#   added first, which need not be `serve`. The SavedModel has them all. signature_keys makes no
#   difference.
# What to do:
#   Call no endpoint `serve` where there are several.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   endpoints score, embed : signatures {'embed': ['of_embed'], 'score': ['of_score'], 'serving_default': ['of_score']}
#   endpoints serve, embed : signatures {'serving_default': ['of_serve']}
#   endpoints embed, serve : signatures {'serving_default': ['of_embed']}
#   endpoints serve, embed {'signature_keys': ['serve', 'embed']}: signatures {'serving_default': ['of_serve']}
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
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

given = keras.Input((3,))
model = keras.Model(given, keras.layers.Dense(4)(given))


def signatures(first, second, **options):
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = [tf.TensorSpec((1, 3), name="x")]
    archive.add_endpoint(first, lambda x: {f"of_{first}": model(x)}, spec)
    archive.add_endpoint(second, lambda x: {f"of_{second}": 2 * model(x)}, spec)
    folder = f"{first}_{second}"
    archive.write_out(folder, verbose=False)
    assert {first, second, "serving_default"} == set(tf.saved_model.load(folder).signatures)
    content = tf.lite.TFLiteConverter.from_saved_model(folder, **options).convert()
    found = Interpreter(model_content=content).get_signature_list()
    found = {name: parts["outputs"] for name, parts in sorted(found.items())}
    print(f"endpoints {first}, {second} {options or ''}: signatures {found}")
    return found


assert signatures("score", "embed") == {
    "embed": ["of_embed"], "score": ["of_score"], "serving_default": ["of_score"],
}
assert signatures("serve", "embed") == {"serving_default": ["of_serve"]}
assert signatures("embed", "serve") == {"serving_default": ["of_embed"]}
assert signatures("serve", "embed", signature_keys=["serve", "embed"]) == {"serving_default": ["of_serve"]}
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
