"""Kinds of evidence, and how each becomes model input: one file a modality."""

from tfx_finetune.modalities import audio, image, text

__all__ = ["audio", "image", "text"]
