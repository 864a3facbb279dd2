"""What a model predicts: head, loss, metrics and decoding from one factory, one file a task.

A head takes pooled features (batch, dim), or levels of a pyramid, and gives logits, (batch, classes) or more of them;
its scores are shares of 0 to 1. Named by `--heads`.
"""

from tfx_finetune.tasks import classify, detect, segment, tag, zero_shot

__all__ = ["classify", "detect", "zero_shot", "segment", "tag"]
