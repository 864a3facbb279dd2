"""Kinds of evidence, and how each becomes model input: one file a modality."""

from tfx_finetune.modalities import image

__all__ = ["image"]
