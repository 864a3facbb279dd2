#!/bin/sh
# TensorFlow decodes an opaque PNG of 1, 2 or 4 bits with an alpha of 1, 3 or 15.
#
# A good engineer would expect:
#   decode_png(channels=4) gives alpha 255 to every pixel of a picture without transparency, as Pillow
#   does and as TensorFlow itself does for 8 bits.
# What happens:
#   The alpha is 2^bits - 1 while the colours are scaled to 0..255. A picture that is composited over
#   a background by this alpha is nearly invisible. Grey pictures and palettes are both affected.
#   Programs that make PNG files small write them with few bits.
# What to do:
#   Ask for three channels where the header has no alpha and the file has no tRNS chunk.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   grey, bits 1: alpha [1] by TensorFlow, [255] by Pillow
#   palette of 2, bits 1: alpha [1] by TensorFlow, [255] by Pillow
#   palette of 4, bits 2: alpha [3] by TensorFlow, [255] by Pillow
#   palette of 16, bits 4: alpha [15] by TensorFlow, [255] by Pillow
#   palette of 256, bits 8: alpha [255] by TensorFlow, [255] by Pillow
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
import io

import numpy as np
import tensorflow as tf
from PIL import Image


def png(picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def ramp(colours):
    """A palette picture; Pillow writes as few bits as hold its colours."""
    picture = Image.new("P", (colours, 1))
    picture.putpalette([value * 255 // (colours - 1) for value in range(colours) for _ in range(3)])
    picture.putdata(range(colours))
    return picture


pictures = {"grey": Image.new("1", (2, 1), 1)} | {f"palette of {n}": ramp(n) for n in (2, 4, 16, 256)}
seen = {}
for name, picture in pictures.items():
    content = png(picture)
    bits = content[24]
    theirs = tf.io.decode_png(content, channels=4).numpy()
    pillow = np.array(Image.open(io.BytesIO(content)).convert("RGBA"))
    assert (theirs[..., :3] == pillow[..., :3]).all()
    assert (pillow[..., 3] == 255).all()
    alphas = sorted(set(theirs[..., 3].ravel().tolist()))
    print(f"{name}, bits {bits}: alpha {alphas} by TensorFlow, [255] by Pillow")
    seen[name] = (bits, alphas)
assert seen == {
    "grey": (1, [1]),
    "palette of 2": (1, [1]),
    "palette of 4": (2, [3]),
    "palette of 16": (4, [15]),
    "palette of 256": (8, [255]),
}, seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
