#!/bin/sh
# TensorFlow cuts a GIF to the size of its frame and drops most of the frame.
#
# A good engineer would expect:
#   A frame that covers a part of the canvas is placed on it: the result has the canvas's size, as in
#   Pillow and in browsers.
# What happens:
#   A still GIF of 8 x 8 whose frame covers 4 x 4 at (2, 2) is decoded as 4 x 4: the canvas gets the
#   frame's size, the frame keeps its offset, and what lies beyond the small canvas, three quarters of
#   the frame, is lost. A second frame that fills the canvas brings the canvas, and with it the first
#   frame, back.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   Pillow: (8, 8), 16 pixels of the frame
#   TensorFlow: (4, 4), 4 pixels of the frame
#   TensorFlow, with a second frame that fills the canvas: (8, 8), 16 pixels of the frame
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
import struct

import numpy as np
import tensorflow as tf
from PIL import Image


def frame(left, top, width, height, colour):
    """A frame of one colour; its codes are not compressed: each pair of pixels follows a clear code."""
    codes = [code for pixel in range(width * height) for code in ([4, colour] if pixel % 2 == 0 else [colour])] + [5]
    bits = sum(code << (3 * position) for position, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return (
        b"\x21\xf9\x04\x04\x0a\x00\x00\x00"  # leave it in place, 0.1 s, nothing transparent
        + b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0)
        + b"\x02" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    )


def gif(*frames):
    palette = bytes([0, 0, 255, 255, 0, 0, 0, 255, 0, 255, 255, 255])
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0xF1, 0, 0) + palette + b"".join(frames) + b"\x3b"


small, whole = frame(2, 2, 4, 4, 1), frame(0, 0, 8, 8, 2)
pillow = np.array(Image.open(io.BytesIO(gif(small))).convert("RGB"))
still = tf.io.decode_image(gif(small), expand_animations=False).numpy()
moving = tf.io.decode_gif(gif(small, whole)).numpy()
results = {"Pillow": pillow, "TensorFlow": still, "TensorFlow, with a second frame that fills the canvas": moving[0]}
for name, pixels in results.items():
    print(f"{name}: {pixels.shape[:2]}, {int((pixels == [255, 0, 0]).all(-1).sum())} pixels of the frame")
assert pillow.shape == (8, 8, 3) and (pillow[2:6, 2:6] == [255, 0, 0]).all()
assert still.shape == (4, 4, 3) and int((still == [255, 0, 0]).all(-1).sum()) == 4
assert moving.shape == (2, 8, 8, 3) and (moving[0, 2:6, 2:6] == [255, 0, 0]).all()
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
