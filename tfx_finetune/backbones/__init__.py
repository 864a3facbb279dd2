"""Pretrained towers, each with the weight card that says how to feed it."""

from tfx_finetune.backbones import (
    applications,
    bag_of_embeddings,
    convnet,
    e5_small,
    efficientnet_lite,
    keras_file,
    minilm,
    torchvision,
    use_multilingual,
)

__all__ = [
    "applications",
    "bag_of_embeddings",
    "convnet",
    "e5_small",
    "efficientnet_lite",
    "keras_file",
    "minilm",
    "torchvision",
    "use_multilingual",
]
