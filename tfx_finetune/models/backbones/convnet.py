"""A small network without pretrained weights, for small pictures such as handwritten digits."""

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input
from tfx_finetune.types.components import BACKBONES, Backbone, PretrainedCfg


@BACKBONES.register
def convnet(size: int = 28, channels: int = 1, widths: tuple[int, ...] = (32, 64, 128)) -> Backbone:
    """Two convolutions with BatchNormalization a stage, halved between stages; trained from scratch.

    Args:
        size: Side of the input in pixels, that can be halved once a stage.
        channels: 1 for grey, 3 for colour.
        widths: Channels of each stage.
    """
    if channels not in (1, 3) or size < 2 ** len(widths) or not widths:
        allowed = "channels 1 or 3, and a size that can be halved once a stage"
        raise UserError("convnet cannot be of this form", got=f"{size}, {channels}, {widths}", expected=allowed)
    card = PretrainedCfg(size=size, mean=(127.5,) * 3, std=(127.5,) * 3, channels=channels)
    inputs, x = make_normalized_input(card)
    for stage, width in enumerate(widths, 1):
        for part, stride in (("a", 1 if stage == 1 else 2), ("b", 1)):
            name = f"stage{stage}{part}"
            x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False, name=name)(x)
            # Keras's statistics need hundreds of steps to follow, which small data does not have.
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return build_backbone(card, inputs, x)
