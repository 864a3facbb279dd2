"""What a model predicts: head, loss, metrics and decoding from one factory, one file a task."""

from tfx_finetune.tasks import classify, detect, name, segment, tag

__all__ = ["classify", "detect", "name", "segment", "tag"]
