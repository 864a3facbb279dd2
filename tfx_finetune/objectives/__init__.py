"""What is learned beside the labels."""

from tfx_finetune.objectives import align, coral, dann

__all__ = ["align", "coral", "dann"]
