#!/bin/sh
# A data set that is shuffled with a tensor as its seed fails if the global seed is 0.
#
# A good engineer would expect:
#   The global seed is any whole number: set_seed(0) works wherever set_seed(1) does.
# What happens:
#   Inside a function of a data set, shuffle(seed=epoch) takes a tensor, so that every epoch has an
#   order of its own. With set_seed(1) it works. With set_seed(0) TensorFlow compares both seeds with
#   0 in Python to see whether both are, and raises OperatorNotAllowedInGraphError, which names
#   neither seeds nor 0.
# What to do:
#   Set the seed to one more than the user's.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   set_seed(1): [4, 2, 1, 0, 5, 3, 0, 4, 5, 1, 2, 3]
#   set_seed(7): [3, 1, 4, 5, 0, 2, 0, 2, 5, 3, 1, 4]
#   set_seed(0): OperatorNotAllowedInGraphError
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
import tensorflow as tf


def order(seed):
    tf.random.set_seed(seed)

    def epoch(number):
        return tf.data.Dataset.range(6).shuffle(6, seed=number, reshuffle_each_iteration=False)

    return [int(value) for value in tf.data.Dataset.range(2).flat_map(epoch)]


seen = {}
for seed in (1, 7, 0):
    try:
        seen[seed] = order(seed)
    except Exception as error:
        seen[seed] = type(error).__name__
    print(f"set_seed({seed}): {seen[seed]}")
assert sorted(seen[1][:6]) == sorted(seen[7][:6]) == list(range(6))
assert seen[0] == "OperatorNotAllowedInGraphError"
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
