"""Random changes of training samples: one file an augment."""

from tfx_finetune.augments import color, crop, flip

__all__ = ["color", "crop", "flip"]
