"""Sample data: handwritten digits, from the sample image of OpenCV's documentation in a Debian package."""

import numpy as np
import tensorflow as tf

from tfx_finetune.core import assets
from tfx_finetune.datasets.sources.in_memory import InMemorySource
from tfx_finetune.types.components import SOURCES, Source

_SIDE = 20
_ROWS_PER_DIGIT = 5


@SOURCES.register
def opencv_digits() -> Source:
    """Read 5,000 handwritten digits of 20 by 20 pixels, white on black, 500 of each digit.

    The package opencv-doc (96 MB) is used if it is installed, else downloaded into the cache without root.
    """
    sheet = tf.io.decode_png(assets.fetch_file("opencv-digits").read_bytes(), channels=1).numpy()
    num_rows, num_columns = (length // _SIDE for length in sheet.shape[:2])
    cells = sheet.reshape(num_rows, _SIDE, num_columns, _SIDE, 1).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 1)
    labels = [str(row // _ROWS_PER_DIGIT) for row in range(num_rows) for _ in range(num_columns)]
    files = [f"row {row}, column {column}" for row in range(num_rows) for column in range(num_columns)]
    parts = {"all": {"image": np.ascontiguousarray(cells), "label": labels, "file": files}}
    return InMemorySource("opencv_digits", tuple(map(str, range(num_rows // _ROWS_PER_DIGIT))), (), parts)
