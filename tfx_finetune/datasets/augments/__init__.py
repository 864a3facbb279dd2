"""Random augmentations of training data.

Most augments change one decoded sample: an image, uint8 (height, width, channels), together with its boxes and mask; a
waveform, float32 (samples,) in -1 to 1; or a UTF-8 text. Augments of several samples (`mosaic`, `mixup_scenes`,
`copy_paste`) combine images, and `mixup` and `cutmix` change batches. The same seed gives the same result.
"""

from tfx_finetune.datasets.augments import audio, geometric, mixing, multi_sample, photometric, policies, text

__all__ = ["audio", "geometric", "mixing", "multi_sample", "photometric", "policies", "text"]
