#!/bin/sh
# SciPy 1.11.1 finds no connected components at all in a graph with 64-bit indices.
#
# A good engineer would expect:
#   connected_components() takes the sparse arrays that SciPy makes itself from NumPy's default
#   integers, or raises an error.
# What happens:
#   It returns 0 components and the label -9999 for every node. The mismatch of types is raised inside
#   compiled code, which cannot pass it on and prints `Exception ignored`. Whoever groups by label
#   sees one group of all. csr_matrix and coo_matrix narrow the indices and are right; csr_array and
#   coo_array keep them and are not. 1.11.1 and 1.11.2 do this; 1.10.1 and 1.11.3 are right.
# What to do:
#   Make the indices int32.
# Versions (Python 3.11):
#   scipy==1.11.1 numpy==1.26.4
# Output:
#   coo_array, int32: 2 components, labels [0, 0, 0, 1, 1]
#   coo_matrix, int64: 2 components, labels [0, 0, 0, 1, 1]
#   coo_array, int64: 0 components, labels [-9999, -9999, -9999, -9999, -9999]
#   csr_array, int64: 0 components, labels [-9999, -9999, -9999, -9999, -9999]
set -eu
pins="scipy==1.11.1 numpy==1.26.4"
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
from scipy.sparse import coo_array, coo_matrix, csr_array
from scipy.sparse.csgraph import connected_components

rows, columns = np.array([0, 1, 3]), np.array([1, 2, 4])
seen = {}
for name, kind, width in (
    ("coo_array, int32", coo_array, np.int32),
    ("coo_matrix, int64", coo_matrix, np.int64),
    ("coo_array, int64", coo_array, np.int64),
    ("csr_array, int64", csr_array, np.int64),
):
    edges = (np.ones(3), (rows.astype(width), columns.astype(width)))
    count, labels = connected_components(kind(edges, shape=(5, 5)), directed=False)
    seen[name] = (int(count), labels.tolist())
    print(f"{name}: {count} components, labels {labels.tolist()}")
assert seen["coo_array, int32"] == seen["coo_matrix, int64"] == (2, [0, 0, 0, 1, 1])
assert seen["coo_array, int64"] == seen["csr_array, int64"] == (0, [-9999] * 5), seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
