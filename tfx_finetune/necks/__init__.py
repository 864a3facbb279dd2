"""What gives every level of a pyramid as much meaning and as many channels: one file a neck."""

from tfx_finetune.necks import bifpn, fpn, pan

__all__ = ["bifpn", "fpn", "pan"]
