"""Pretrained towers, each with the weight card that says how to feed it."""

from tfx_finetune.backbones import (
    applications,
    audio_net,
    convnet,
    efficientnet_lite,
    keras_file,
    spectrogram,
    speech_embedding,
    torchvision,
    whisper,
)

__all__ = [
    "applications",
    "audio_net",
    "convnet",
    "efficientnet_lite",
    "keras_file",
    "spectrogram",
    "speech_embedding",
    "torchvision",
    "whisper",
]
