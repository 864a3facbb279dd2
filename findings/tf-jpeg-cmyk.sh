#!/bin/sh
# TensorFlow inverts a CMYK JPEG that has no Adobe marker.
#
# A good engineer would expect:
#   A CMYK JPEG without the marker has plain CMYK values, so full cyan becomes (0, 255, 255), as in
#   Pillow.
# What happens:
#   TensorFlow reads every CMYK JPEG as if it held Adobe's inverted values. Full cyan without the
#   marker becomes black. With the marker both decoders agree. The two files differ in Adobe's segment
#   of 16 bytes alone, which programs that strip metadata remove.
# Versions (Python 3.11):
#   tensorflow==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 pillow==13.0.0 numpy==2.4.6
# Output:
#   with the marker: Pillow reads CMYK (255, 0, 0, 0), RGB (0, 255, 255); TensorFlow gives (0, 255, 255)
#   without: Pillow reads CMYK (255, 0, 0, 0), RGB (0, 255, 255); TensorFlow gives (0, 0, 0)
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

import tensorflow as tf
from PIL import Image

content = io.BytesIO()
Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(content, "JPEG", quality=95)
marked = content.getvalue()
start = marked.index(b"\xff\xee")  # the marker of Adobe's segment, which Pillow writes
end = start + 2 + int.from_bytes(marked[start + 2 : start + 4], "big")
stored = bytearray(marked[:start] + marked[end:])
seen = {}
for name, file in (("with the marker", marked), ("without", bytes(stored))):
    pillow = Image.open(io.BytesIO(file)).convert("CMYK")
    theirs = tuple(tf.io.decode_jpeg(file, channels=3).numpy()[8, 8].tolist())
    seen[name] = (pillow.getpixel((8, 8)), pillow.convert("RGB").getpixel((8, 8)), theirs)
    print(f"{name}: Pillow reads CMYK {seen[name][0]}, RGB {seen[name][1]}; TensorFlow gives {theirs}")
assert seen["with the marker"][2] == seen["with the marker"][1] == (0, 255, 255)
assert seen["without"][1] != seen["without"][2], seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
