#!/bin/sh
# pycocotools never counts an object as found whose annotation has the id 0.
#
# A good engineer would expect:
#   The id of an annotation is any number that no other has; image ids and many exporters count from
#   0.
# What happens:
#   The evaluation keeps the matched annotation's id for each detection, and 0 means that there was no
#   match. The detection of the first annotation is a false alarm, and its object is missed. Two
#   perfect detections of two objects have an average precision of 0.252. With ids from 1 it is 1.
# What to do:
#   Count annotations from 1.
# Versions (Python 3.11):
#   pycocotools==2.0.11 numpy==2.4.6
# Output:
#   ids from 0: average precision 0.252, recall 0.5
#   ids from 1: average precision 1.0, recall 1.0
set -eu
pins="pycocotools==2.0.11 numpy==2.4.6"
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
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX = [10, 10, 50, 50]


def evaluated(first):
    """Average precision and recall of two perfect detections; annotations count from `first`."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image, "width": 100, "height": 100} for image in range(2)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": first + image, "image_id": image, "category_id": 1, "bbox": BOX, "area": 2500, "iscrowd": 0}
            for image in range(2)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{"image_id": image, "category_id": 1, "bbox": BOX, "score": 0.9} for image in range(2)])
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return round(float(run.stats[0]), 3), round(float(run.stats[8]), 3)


seen = {first: evaluated(first) for first in (0, 1)}
for first, (precision, recall) in seen.items():
    print(f"ids from {first}: average precision {precision}, recall {recall}")
assert seen[1] == (1.0, 1.0) and seen[0][0] < 0.5 and seen[0][1] == 0.5, seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
