#!/bin/sh
# TF-MOT prunes nothing in the first 99 steps, also where pruning begins at step 0.
#
# A good engineer would expect:
#   ConstantSparsity(0.5, begin_step=0) prunes with the first batch, and its frequency of 100 says how
#   often masks are renewed from there on.
# What happens:
#   The callback sets the step to 1 before the first batch is run, so step 0 never comes, and the next
#   one that is asked about is step 100. A fine-tuning of fewer steps ends with no zero in any kernel,
#   without a warning, and strip_pruning() gives the dense model back. With begin_step=1 half of the
#   weights are 0. PolynomialDecay is no different.
# What to do:
#   Choose begin_step=1 or a frequency that fits the number of steps, and count the zeros.
# Versions (Python 3.11):
#   tensorflow==2.21.0 tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 ai-edge-litert==2.3.0
#   numpy==2.4.6
# Output:
#   ConstantSparsity(0.5, begin_step=0), 50 steps: 0% of the kernel is 0
#   ConstantSparsity(0.5, begin_step=0), 99 steps: 0% of the kernel is 0
#   ConstantSparsity(0.5, begin_step=0), 100 steps: 50% of the kernel is 0
#   ConstantSparsity(0.5, begin_step=1), 50 steps: 50% of the kernel is 0
#   PolynomialDecay(0, 0.5, 0, 99), 99 steps: 0% of the kernel is 0
set -eu
pins="tensorflow==2.21.0 tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 ai-edge-litert==2.3.0 numpy==2.4.6"
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
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

sparsity = tfmot.sparsity.keras


def zeros(schedule, steps):
    """Share of the kernel that is 0 after so many steps of training."""
    given = tf_keras.layers.Input((16,))
    model = tf_keras.Model(given, tf_keras.layers.Dense(16, name="dense")(given))
    pruned = sparsity.prune_low_magnitude(model, schedule)
    pruned.compile("sgd", "mse")
    random = np.random.default_rng(0)
    x, y = random.random((steps, 16)), random.random((steps, 16))
    pruned.fit(x, y, batch_size=1, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    kernel = sparsity.strip_pruning(pruned).get_layer("dense").get_weights()[0]
    return float((kernel == 0).mean())


seen = {}
for name, schedule, steps in (
    ("ConstantSparsity(0.5, begin_step=0), 50 steps", sparsity.ConstantSparsity(0.5, 0), 50),
    ("ConstantSparsity(0.5, begin_step=0), 99 steps", sparsity.ConstantSparsity(0.5, 0), 99),
    ("ConstantSparsity(0.5, begin_step=0), 100 steps", sparsity.ConstantSparsity(0.5, 0), 100),
    ("ConstantSparsity(0.5, begin_step=1), 50 steps", sparsity.ConstantSparsity(0.5, 1), 50),
    ("PolynomialDecay(0, 0.5, 0, 99), 99 steps", sparsity.PolynomialDecay(0.0, 0.5, 0, 99), 99),
):
    seen[name] = zeros(schedule, steps)
    print(f"{name}: {seen[name]:.0%} of the kernel is 0")
assert list(seen.values()) == [0.0, 0.0, 0.5, 0.5, 0.0], seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
