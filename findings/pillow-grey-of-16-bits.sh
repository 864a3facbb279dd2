#!/bin/sh
# Pillow makes a grey PNG of 16 bits white when it is converted to 8 bits.
#
# A good engineer would expect:
#   convert('L') and convert('RGB') scale 0..65535 to 0..255, as Pillow itself does for an RGB PNG of
#   16 bits.
# What happens:
#   Values are cut off at 255. Every pixel above 0.4 % of full brightness becomes white. The usual
#   line Image.open(path).convert('RGB') of a data loader therefore turns X-ray, depth and microscope
#   pictures white, without a warning. keras.utils.load_img has that line too.
# What to do:
#   Shift the array by 8 bits where the mode begins with I.
# Versions (Python 3.11):
#   pillow==13.0.0 numpy==2.4.6
# Output:
#   grey.png mode I;16 as RGB: [0, 255, 255, 255, 255, 255, 255, 255]
#   colour.png mode RGB as RGB: [0, 32, 64, 96, 128, 160, 192, 224]
#   the values in both files: [0, 8192, 16384, 24576, 32768, 40960, 49152, 57344]
set -eu
pins="pillow==13.0.0 numpy==2.4.6"
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
import struct
import zlib

import numpy as np
from PIL import Image


def png(kind, pixels):
    """A PNG of 16 bits of that kind of colour: 0 is grey, 2 is RGB."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


values = np.arange(0, 65536, 8192)[None]
open("grey.png", "wb").write(png(0, values))
open("colour.png", "wb").write(png(2, np.stack([values] * 3, -1).reshape(1, -1, 3)))
seen = {}
for name in ("grey.png", "colour.png"):
    with Image.open(name) as picture:
        seen[name] = np.array(picture.convert("RGB"))[0, :, 0].tolist()
        print(name, "mode", picture.mode, "as RGB:", seen[name])
with Image.open("grey.png") as picture:
    assert np.array(picture.convert("L")).ravel().tolist() == seen["grey.png"]
print("the values in both files:", values[0].tolist())
assert seen["grey.png"] == [0] + [255] * 7
assert seen["colour.png"] == (values[0] >> 8).tolist()
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
