"""Random changes of training samples: one file an augment."""

from tfx_finetune.augments import augmix, blur, color, crop, erase, flip, gray, mixing, rand_augment, rotate, words

__all__ = ["augmix", "blur", "color", "crop", "erase", "flip", "gray", "mixing", "rand_augment", "rotate", "words"]
