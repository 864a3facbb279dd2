"""OpenCV's sheet of digits as samples."""

import numpy as np
from PIL import Image

from tests.helpers.assets import fetch_asset
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES


def test_the_cells_of_the_sheet():
    """Samples are the cells of the sheet, row by row, 500 of each digit."""
    with Image.open(fetch_asset("opencv-digits") / "digits.png") as file:
        sheet = np.asarray(file)
    source = SOURCES.build(Spec("opencv_digits"))
    assert (source.sizes, source.labels) == ({"all": 5000}, tuple("0123456789"))
    rows = list(source.read("all").as_numpy_iterator())
    for position in (0, 99, 100, 1234, 4999):
        row, column = divmod(position, 100)
        cell = sheet[20 * row : 20 * row + 20, 20 * column : 20 * column + 20]
        assert np.array_equal(rows[position]["image"][..., 0], cell)
        assert rows[position]["label"].decode() == str(row // 5)
        assert rows[position]["file"].decode() == f"row {row}, column {column}"
