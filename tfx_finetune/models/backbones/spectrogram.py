"""Towers for pictures on spectrograms: what tells photographs apart tells pictures of sounds apart too (Gong et al.,
PSLA, arXiv 2102.01243, section 3).
"""

import dataclasses

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.models.backbones import graph, log_mel
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.types.components import BACKBONES, Backbone, Features


@BACKBONES.register_for("audio")
def spectrogram(
    tower: Spec | str = "efficientnet_lite0()", seconds: float = 2.0, sample_rate: int = 16_000, mels: int = 128
) -> Backbone:
    """Any backbone for pictures on the log-mel spectrogram of a sound, drawn as a grey picture.

    Args:
        tower: The backbone for pictures, such as `efficientnet_lite1(size=160)`.
        seconds: Length of the input.
        rate: Samples a second, 4,000 to 192,000.
        mels: Bands of the spectrogram, 8 to 256, before it is resized to the tower's size.

    Raises:
        UserError: The tower takes no pictures.
    """
    spec = parse_spec(tower) if isinstance(tower, str) else tower
    modality = BACKBONES.get_modality(spec.name)
    if modality != "image":
        raise UserError("spectrogram wants a tower that takes pictures", got=f"{spec.name} (takes {modality})")
    mel, size = log_mel.make_mel_config(sample_rate, mels), round(seconds * sample_rate)
    if not mel.count_frames(size):
        raise UserError("the input of spectrogram is too short", got=f"{seconds} seconds")
    built = BACKBONES.build(spec)
    inputs = log_mel.make_waveform_input(size)
    drawn = _convert_to_image(
        log_mel.normalize_loudness(log_mel.compute_mel_power(inputs, mel)), built.inputs.shape[1], built.inputs.shape[3]
    )
    outputs = flatten(keras.Model(built.inputs, built.features.pooled), drawn)
    top, pooled = (_get_operation_name(tensor) for tensor in (built.groups[-1].output, built.features.pooled))
    groups = graph.split_layer_groups(keras.Model(inputs, outputs[top]), start_tensor=drawn)
    # A grey picture's mean and deviation are those of the tower, which normalizes by itself.
    card = dataclasses.replace(built.card, size=size, rate=sample_rate)
    return Backbone("audio", card, inputs, Features(outputs[pooled]), groups)


def _convert_to_image(x: keras.KerasTensor, side: int, channels: int) -> keras.KerasTensor:
    """A spectrogram (batch, frames, mels) of 0 to 1 as pixels of 0 to 255, time from left to right."""
    x = keras.layers.Permute((2, 1), name="upright")(x)
    x = keras.layers.Reshape((*x.shape[1:], 1), name="picture")(x)
    x = keras.layers.Resizing(side, side, name="resized")(x)
    x = keras.layers.Rescaling(255.0, name="pixels")(x)
    return keras.layers.Concatenate(name="grey")([x] * channels) if channels > 1 else x


def _get_operation_name(tensor: keras.KerasTensor) -> str:
    return tensor._keras_history.operation.name
