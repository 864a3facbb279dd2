"""Where samples come from: one file a source, registered by being imported here."""

from tfx_finetune.sources import (
    digit_words,
    folder,
    fortunes,
    idx,
    opencv_digits,
    paired,
    scripts,
    snownlp,
    spoken_digits,
    table,
    tfds,
    tux_scenes,
    tux_stamps,
)

__all__ = [
    "digit_words",
    "folder",
    "fortunes",
    "idx",
    "opencv_digits",
    "paired",
    "scripts",
    "snownlp",
    "spoken_digits",
    "table",
    "tfds",
    "tux_scenes",
    "tux_stamps",
]
