"""What a phase may train inside a frozen tower, in place of all its weights."""

from tfx_finetune.adapters import bitfit, bottleneck, lora, norms

__all__ = ["bitfit", "bottleneck", "lora", "norms"]
