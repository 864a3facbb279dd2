"""Modalities: how images, recordings and texts become model input.

An image becomes uint8 pixels (size, size, channels), a recording float32 samples (size,) in -1 to 1, a text int32
tokens (size,). The options are flags of a run: `--image.resize`, `--audio.trim`, `--text.normalize`.
"""

from tfx_finetune.datasets.modalities import audio, image, text

__all__ = ["audio", "image", "text"]
