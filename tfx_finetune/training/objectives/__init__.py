"""What is learned beside the labels.

Losses on what the heads read, (batch, dim), of training samples with and without labels. Named by `--auxiliary_losses`.
"""

from tfx_finetune.training.objectives import align, coral, dann

__all__ = ["align", "coral", "dann"]
