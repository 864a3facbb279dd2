"""Pretrained towers, each with the weight card that says how to feed it."""

from tfx_finetune.backbones import applications, convnet, efficientnet_lite, keras_file, torchvision

__all__ = ["applications", "convnet", "efficientnet_lite", "keras_file", "torchvision"]
