"""What gives every level of a pyramid as much meaning and as many channels: one file a neck.

Levels of (batch, side, side, channels) come in, from fine to coarse; as many of (batch, side, side, dim) come out.
"""

from tfx_finetune.models.necks import bifpn, fpn, pan

__all__ = ["bifpn", "fpn", "pan"]
