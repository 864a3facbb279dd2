#!/bin/sh
# soundfile reads a WAV of floats as silence where 16-bit integers are asked for.
#
# A good engineer would expect:
#   read(dtype='int16') scales full level to 32767, as it does for PCM of 24 bits, for Vorbis and for
#   MP3, whose samples are floats inside as well.
# What happens:
#   Floats of a WAV are rounded and not scaled: -1 to 1 become -1, 0 and 1, so that every recording is
#   silent. No exception is raised. dtype='float32' is right for every format. Audio editors export
#   WAV files of floats, and models that take 16-bit samples ask for int16.
# What to do:
#   Read float32, and multiply.
# Versions (Python 3.11):
#   soundfile==0.14.0 numpy==2.4.6
# Output:
#   WAV PCM_16: largest sample 16384 as int16, 0.50 as float32
#   WAV PCM_24: largest sample 16384 as int16, 0.50 as float32
#   FLAC PCM_16: largest sample 16384 as int16, 0.50 as float32
#   OGG VORBIS: largest sample 16787 as int16, 0.51 as float32
#   MP3 MPEG_LAYER_III: largest sample 16925 as int16, 0.52 as float32
#   WAV FLOAT: largest sample 0 as int16, 0.50 as float32
#   WAV DOUBLE: largest sample 0 as int16, 0.50 as float32
set -eu
pins="soundfile==0.14.0 numpy==2.4.6"
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
import soundfile

wave = 0.5 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440)
seen = {}
for format, subtype in (
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"),
    ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
):
    content = io.BytesIO()
    soundfile.write(content, wave, 16000, format=format, subtype=subtype)
    levels = []
    for kind in ("int16", "float32"):
        content.seek(0)
        levels.append(float(np.abs(soundfile.read(content, dtype=kind)[0].astype(float)).max()))
    seen[subtype] = levels
    print(f"{format} {subtype}: largest sample {levels[0]:.0f} as int16, {levels[1]:.2f} as float32")
for subtype, (integer, real) in seen.items():
    assert 0.48 < real < 0.55
    assert integer <= 1 if subtype in ("FLOAT", "DOUBLE") else 15000 < integer < 18000
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
