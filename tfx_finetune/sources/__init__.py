"""Where samples come from: one file a source, registered by being imported here."""

from tfx_finetune.sources import (
    coco,
    digit_words,
    folder,
    fortunes,
    idx,
    masks,
    opencv_digits,
    paired,
    scripts,
    snownlp,
    spoken_digits,
    table,
    tfds,
    tux_stamps,
    voc,
    yolo,
)

__all__ = [
    "coco",
    "digit_words",
    "folder",
    "fortunes",
    "idx",
    "masks",
    "opencv_digits",
    "paired",
    "scripts",
    "snownlp",
    "spoken_digits",
    "table",
    "tfds",
    "tux_stamps",
    "voc",
    "yolo",
]
