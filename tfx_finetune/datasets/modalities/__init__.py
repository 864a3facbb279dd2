"""Kinds of evidence, and how each becomes model input: one file a modality.

A picture becomes uint8 pixels (size, size, channels) of 0 to 255, a recording float32 samples (size,) of -1 to 1, a
text int32 tokens (size,). Their options are flags of a run: `--image.resize`, `--audio.trim`, `--text.normalize`.
"""

from tfx_finetune.datasets.modalities import audio, image, text

__all__ = ["audio", "image", "text"]
