#!/bin/sh
# Keras runs more steps than steps_per_epoch where steps_per_execution does not divide it.
#
# A good engineer would expect:
#   steps_per_epoch=5 makes five steps, and predict(steps=5) gives five batches; steps_per_execution
#   only says how many are run at once.
# What happens:
#   The last execution of an epoch runs in full. With steps_per_execution=4 two epochs of 5 steps are
#   16 steps of the optimizer, and predict(steps=5) gives 8 batches. Schedules by step end early, and
#   answers no longer belong to the samples that were counted. Nothing is said.
# What to do:
#   Choose a number that divides the steps of an epoch.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   steps_per_execution=1: 2 epochs of 5 are 10 steps, predict(steps=5) gives 5 batches of one
#   steps_per_execution=2: 2 epochs of 5 are 12 steps, predict(steps=5) gives 6 batches of one
#   steps_per_execution=4: 2 epochs of 5 are 16 steps, predict(steps=5) gives 8 batches of one
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

seen = {}
for at_once in (1, 2, 4):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=at_once)
    pairs = tf.data.Dataset.from_tensors((np.ones((1, 1)), np.ones((1, 1)))).repeat()
    model.fit(pairs, steps_per_epoch=5, epochs=2, verbose=0)
    answers = model.predict(pairs.map(lambda x, y: x), steps=5, verbose=0)
    seen[at_once] = (int(model.optimizer.iterations), len(answers))
    print(f"steps_per_execution={at_once}: 2 epochs of 5 are {seen[at_once][0]} steps, "
          f"predict(steps=5) gives {seen[at_once][1]} batches of one")
assert seen == {1: (10, 5), 2: (12, 6), 4: (16, 8)}, seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
