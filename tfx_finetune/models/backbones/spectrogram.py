"""Audio backbone that applies an image backbone to spectrograms.

Features learned on photographs transfer to spectrograms (Gong et al., PSLA, arXiv 2102.01243, section 3).
"""

import dataclasses

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones import graph, log_mel
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.ops.functional import get_operation_name
from tfx_finetune.types.components import BACKBONES, Backbone, Features


@BACKBONES.register_for("audio")
def spectrogram(
    tower: Spec | str = "efficientnet_lite0()", seconds: float = 2.0, sample_rate: int = 16_000, mels: int = 128
) -> Backbone:
    """Apply an image backbone to the log-mel spectrogram of a sound, as a gray image.

    Args:
        tower: Spec of the image backbone, such as `efficientnet_lite1(size=160)`. Default `efficientnet_lite0()`.
        seconds: float > 0. Length of the input. Default 2.
        sample_rate: int in [4000, 192000]. Samples per second. Default 16000.
        mels: int in [8, 256]. Number of mel bands, before the spectrogram is resized to the backbone's input. Default
            128.

    Raises:
        UserError: If the tower is not an image backbone, or an option is out of range.
    """
    spec = parse_spec(tower) if isinstance(tower, str) else tower
    modality = BACKBONES.get_modality(spec.name)
    if modality != "image":
        got = f"{spec.name} ({modality})"
        raise UserError("The tower of spectrogram() is not an image backbone", got=got, expected="an image backbone")
    mel, size = log_mel.make_mel_config(sample_rate, mels), round(seconds * sample_rate)
    if not mel.count_frames(size):
        expected = f"at least {mel.fft_length / sample_rate:.3g} seconds"
        raise UserError("The input of spectrogram() is too short", got=f"{seconds} seconds", expected=expected)
    backbone = BACKBONES.build(spec)
    inputs = log_mel.make_waveform_input(size)
    power = log_mel.compute_mel_power(inputs, mel)
    _, side, _, channels = backbone.inputs.shape
    image = _convert_to_image(log_mel.normalize_loudness(power), side, channels)
    outputs = flatten(keras.Model(backbone.inputs, backbone.features.pooled), image)
    last_output = outputs[get_operation_name(backbone.groups[-1].output)]
    groups = graph.split_layer_groups(keras.Model(inputs, last_output), start_tensor=image)
    # Mean and standard deviation of the image backbone do not apply to the waveform: its first layer normalizes.
    cfg = dataclasses.replace(backbone.pretrained_cfg, size=size, sample_rate=sample_rate)
    pooled = outputs[get_operation_name(backbone.features.pooled)]
    return Backbone("audio", cfg, inputs, Features(pooled), groups)


def _convert_to_image(x: keras.KerasTensor, side: int, channels: int) -> keras.KerasTensor:
    """Convert a spectrogram (batch, frames, mels) in [0, 1] to pixel values in [0, 255], time from left to right."""
    x = keras.layers.Permute((2, 1), name="upright")(x)
    x = keras.layers.Reshape((*x.shape[1:], 1), name="picture")(x)
    x = keras.layers.Resizing(side, side, name="resized")(x)
    x = keras.layers.Rescaling(255.0, name="pixels")(x)
    return keras.layers.Concatenate(name="grey")([x] * channels) if channels > 1 else x
