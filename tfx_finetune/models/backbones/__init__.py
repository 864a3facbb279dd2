"""Pretrained towers, each with the weight card that says how to feed it.

One for pictures takes pixels (batch, size, size, channels) of 0 to 255, for sounds a waveform (batch, samples) of -1
to 1, for texts int32 tokens (batch, size). It gives pooled features (batch, dim), and levels of a pyramid at strides
of 4 to 32 pixels, or vectors in time (batch, time, dim). A bundle's manifest names origin and licence of its weights.
"""

from tfx_finetune.models.backbones import (
    applications,
    audio_net,
    bag_of_embeddings,
    bundle,
    convnet,
    e5_small,
    efficientnet_lite,
    keras_file,
    keras_hub_text,
    minilm,
    spectrogram,
    speech_embedding,
    ssd_mobilenet,
    torchvision,
    use_multilingual,
    whisper,
)

__all__ = [
    "applications",
    "audio_net",
    "bag_of_embeddings",
    "bundle",
    "convnet",
    "e5_small",
    "efficientnet_lite",
    "keras_file",
    "keras_hub_text",
    "minilm",
    "spectrogram",
    "speech_embedding",
    "ssd_mobilenet",
    "torchvision",
    "use_multilingual",
    "whisper",
]
