"""Random changes of training samples: one file an augment.

Each changes one decoded sample: uint8 pixels (height, width, channels) together with boxes and mask, float32 samples
(samples,) of -1 to 1, or UTF-8; `mixup` and `cutmix` change batches. The same seed gives the same change.
"""

from tfx_finetune.datasets.augments import (
    augmix,
    background,
    blur,
    color,
    copy_paste,
    crop,
    erase,
    flip,
    gain,
    gray,
    mixing,
    noise,
    rand_augment,
    rotate,
    scenes,
    shift,
    spec_augment,
    speed,
    words,
    zoom,
)

__all__ = [
    "augmix",
    "background",
    "blur",
    "color",
    "copy_paste",
    "crop",
    "erase",
    "flip",
    "gain",
    "gray",
    "mixing",
    "noise",
    "rand_augment",
    "rotate",
    "scenes",
    "shift",
    "spec_augment",
    "speed",
    "words",
    "zoom",
]
