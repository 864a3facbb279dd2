"""Tasks, selected by `--heads`: each makes a head with its loss, metrics and decoding.

A head maps pooled features (batch, dim), or levels of a feature pyramid, to logits; its scores are between 0 and 1.
"""

from tfx_finetune.tasks import classify, detect, segment, tag, zero_shot

__all__ = ["classify", "detect", "segment", "tag", "zero_shot"]
