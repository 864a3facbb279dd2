"""Pretrained towers, each with the weight card that says how to feed it."""

from tfx_finetune.backbones import (
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
