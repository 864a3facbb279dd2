"""Random changes of training samples: one file an augment."""

from tfx_finetune.augments import (
    augmix,
    background,
    blur,
    color,
    crop,
    erase,
    flip,
    gain,
    gray,
    mixing,
    noise,
    rand_augment,
    rotate,
    shift,
    spec_augment,
    speed,
)

__all__ = [
    "augmix",
    "background",
    "blur",
    "color",
    "crop",
    "erase",
    "flip",
    "gain",
    "gray",
    "mixing",
    "noise",
    "rand_augment",
    "rotate",
    "shift",
    "spec_augment",
    "speed",
]
