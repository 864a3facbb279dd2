"""Kinds of evidence, and how each becomes model input: one file a modality."""

from tfx_finetune.modalities import image, text

__all__ = ["image", "text"]
