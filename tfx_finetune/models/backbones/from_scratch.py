"""Small convolutional backbones for images and audio that are trained from scratch."""

from collections.abc import Sequence

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import log_mel
from tfx_finetune.models.backbones.graph import build_backbone, make_normalized_input, split_layer_groups
from tfx_finetune.types.components import BACKBONES, Backbone, Features, PretrainedCfg


@BACKBONES.register
def convnet(size: int = 28, channels: int = 1, widths: tuple[int, ...] = (32, 64, 128)) -> Backbone:
    """Build a network for small images such as handwritten digits, trained from scratch.

    Each stage has two convolutions with batch normalization and halves the side, except the first.

    Args:
        size: int >= 2^stages. Side of the input in pixels. Default 28.
        channels: 1 for gray, 3 for color. Default 1.
        widths: Number of channels of each stage. Default (32, 64, 128).

    Raises:
        UserError: If an option is out of range.
    """
    if channels not in (1, 3) or size < 2 ** len(widths) or not widths:
        got = f"size={size}, channels={channels}, widths={widths}"
        expected = "channels 1 or 3, at least one stage, and size >= 2^stages"
        raise UserError("Options of convnet() are out of range", got=got, expected=expected)
    cfg = PretrainedCfg(size=size, mean=(127.5,) * 3, std=(127.5,) * 3, channels=channels)
    inputs, x = make_normalized_input(cfg)
    return build_backbone(cfg, inputs, _apply_stages(x, widths))


@BACKBONES.register_for("audio")
def audio_net(
    seconds: float = 2.0,
    sample_rate: int = 16_000,
    mels: int = 64,
    widths: tuple[int, ...] = (32, 64, 128, 128),
    segments: int = 2,
) -> Backbone:
    """Build a network for short sounds on log-mel spectrograms, trained from scratch.

    Each stage has two convolutions with batch normalization and halves frames and bands, except the first.

    Args:
        seconds: float > 0. Length of the input. Default 2.
        sample_rate: int in [4000, 192000]. Samples per second; frequencies above half of it are lost. Default 16000.
        mels: int in [8, 256]. Number of mel bands, from 60 Hz to 0.475 * sample_rate. Default 64.
        widths: Number of channels of each stage. Default (32, 64, 128, 128).
        segments: int >= 1. The features are averaged over this number of equal segments of time, and concatenated.
            Default 2.

    Raises:
        UserError: If an option is out of range.
    """
    size = round(seconds * sample_rate)
    mel = log_mel.make_mel_config(sample_rate, mels)
    min_side = 2 ** (len(widths) - 1)
    if not widths or mels < min_side or mel.count_frames(size) < min_side:
        got = f"seconds={seconds} ({mel.count_frames(size)} frames), mels={mels}, widths={widths}"
        expected = f"at least one stage, {min_side} mels and {min_side} frames"
        raise UserError("Options of audio_net() are out of range", got=got, expected=expected)
    inputs = log_mel.make_waveform_input(size)
    image = log_mel.normalize_loudness(log_mel.compute_mel_power(inputs, mel))
    x = keras.layers.Reshape((*image.shape[1:], 1), name="picture")(image)
    x = keras.layers.Rescaling(2.0, -1.0, name="normalize")(x)
    x = _apply_stages(x, widths)
    x = keras.layers.AveragePooling2D((1, x.shape[2]), name="bands")(x)
    tokens = keras.layers.Reshape((x.shape[1], x.shape[3]), name="tokens")(x)
    groups = split_layer_groups(keras.Model(inputs, tokens), start_tensor=image)
    features = Features(log_mel.average_segments(tokens, segments), tokens=tokens)
    return Backbone("audio", PretrainedCfg(size=size, sample_rate=sample_rate), inputs, features, groups)


def _apply_stages(x: keras.KerasTensor, widths: Sequence[int]) -> keras.KerasTensor:
    """Apply two convolutions per stage; the first one has stride 2, except in the first stage."""
    for stage, width in enumerate(widths, 1):
        for suffix, stride in (("a", 1 if stage == 1 else 2), ("b", 1)):
            name = f"stage{stage}{suffix}"
            x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False, name=name)(x)
            # With Keras's default momentum, the moving statistics need more steps than a small data set has.
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return x
