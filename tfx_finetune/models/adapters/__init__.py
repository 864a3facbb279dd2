"""What a phase may train inside a frozen tower, in place of all its weights.

Named by `--frozen.adapter` and `--finetune.adapter`, for the groups that the phase unfreezes.
"""

from tfx_finetune.models.adapters import bitfit, bottleneck, lora, norms

__all__ = ["bitfit", "bottleneck", "lora", "norms"]
