"""What gives every level of a pyramid as much meaning and as many channels: one file a neck."""

from tfx_finetune.necks import fpn

__all__ = ["fpn"]
