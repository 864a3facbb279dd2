"""Backbones: pretrained towers and towers that are trained from scratch.

Inputs: pixels (batch, size, size, channels) from 0 to 255, waveforms (batch, samples) from -1 to 1, or int32 tokens
(batch, size). Outputs: pooled features (batch, dim), and for images the levels of a feature pyramid at strides of 4 to
32 pixels, for audio and text token features (batch, time, dim). `PretrainedCfg` describes the input and the origin and
license of the weights, which the manifest of a bundle repeats.
"""

from tfx_finetune.models.backbones import (
    applications,
    bag_of_embeddings,
    bundle,
    efficientnet_lite,
    from_scratch,
    keras_file,
    keras_hub_text,
    sentence_encoders,
    spectrogram,
    speech_embedding,
    ssd_mobilenet,
    torchvision,
    use_multilingual,
    whisper,
)

__all__ = [
    "applications",
    "bag_of_embeddings",
    "bundle",
    "efficientnet_lite",
    "from_scratch",
    "keras_file",
    "keras_hub_text",
    "sentence_encoders",
    "spectrogram",
    "speech_embedding",
    "ssd_mobilenet",
    "torchvision",
    "use_multilingual",
    "whisper",
]
