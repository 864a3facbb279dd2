"""Handwritten digits: the sample picture of OpenCV's documentation, as Debian brings it."""

import numpy as np
import tensorflow as tf

from tfx_finetune.core import assets
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

_SIDE = 20
_ROWS_PER_DIGIT = 5
"""Rows of the sheet for each digit."""


@SOURCES.register
def opencv_digits() -> Source:
    """5,000 handwritten digits of 20 by 20 pixels, white on black, 500 of each.

    The package (96 MB) is used where it is installed, else downloaded into the cache without root.
    """
    sheet = tf.io.decode_png(assets.fetch_file("opencv-digits").read_bytes(), channels=1).numpy()
    down, across = (length // _SIDE for length in sheet.shape[:2])
    cells = sheet.reshape(down, _SIDE, across, _SIDE, 1).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 1)
    label = [str(row // _ROWS_PER_DIGIT) for row in range(down) for _ in range(across)]
    file = [f"row {row}, column {column}" for row in range(down) for column in range(across)]
    parts = {"all": {"image": np.ascontiguousarray(cells), "label": label, "file": file}}
    return InMemorySource("opencv_digits", tuple(map(str, range(down // _ROWS_PER_DIGIT))), (), parts)
