"""Whisper's encoder as keras-hub brings it (Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision,
arXiv 2212.04356).
"""

from pathlib import Path

import keras

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import graph, log_mel
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.hub import load_preset
from tfx_finetune.types.components import BACKBONES, Backbone, Features, PretrainedCfg

_RATE, _WEIGHTS = 16_000, "model.weights.h5"


@BACKBONES.register_for("audio")
def whisper(preset: str = "whisper_tiny_multi", seconds: float = 30.0) -> Backbone:
    """Whisper's encoder: speech of about 100 languages, 50 vectors a second.

    Args:
        preset: A preset of keras-hub, such as `whisper_base_multi`, which it downloads, or a folder that holds one.
        seconds: Length of the input, 0.1 to 30, on which it was trained; shorter inputs cost less and are as well told
            apart after fine-tuning.

    Raises:
        UserError: keras-hub is not installed, the preset cannot be had, or the length is out of range.
    """
    if not 0.1 <= seconds <= 30:
        raise UserError("the input of whisper is out of range", got=seconds, expected="0.1 to 30 seconds")
    found = load_preset("WhisperBackbone", preset)
    size = round(seconds * _RATE)
    mel = log_mel.MelConfig(_RATE, found.num_mels, 0.0, 8_000.0, 400, 160, 400, "slaney")
    card = _make_pretrained_cfg(preset, size)
    inputs = log_mel.make_waveform_input(size)
    # Frames are centred, the first one at the very beginning; the last one is left out.
    around = keras.ops.pad(inputs, ((0, 0), (mel.window_length // 2, mel.window_length // 2 - 1)), mode="reflect")
    mels = log_mel.convert_to_decibels(log_mel.compute_mel_power(around, mel))
    x = keras.layers.Rescaling(1 / 40, 1.0, name="normalize")(mels)
    encoder = keras.Model(found.input["encoder_features"], found.output["encoder_sequence_output"])
    tokens = flatten(encoder, x)["encoder_layer_norm"]
    groups = graph.split_layer_groups(keras.Model(inputs, tokens), start_tensor=mels, min_kernels=1)
    pooled = keras.layers.GlobalAveragePooling1D(name="pooled")(tokens)
    return Backbone("audio", card, inputs, Features(pooled, tokens=tokens), groups)


def _make_pretrained_cfg(preset: str, size: int) -> PretrainedCfg:
    file = Path(preset).expanduser() / _WEIGHTS
    if file.is_file():
        return PretrainedCfg(size=size, sample_rate=_RATE, origin=preset, sha256=files.sha256(file))
    return PretrainedCfg(size=size, sample_rate=_RATE, origin=f"{preset} (keras-hub), OpenAI Whisper", license="MIT")
