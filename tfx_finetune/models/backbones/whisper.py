"""Encoder of Whisper from keras-hub (Radford et al., arXiv 2212.04356)."""

import dataclasses
from pathlib import Path

import keras

from tfx_finetune.core import files
from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import graph, log_mel
from tfx_finetune.models.backbones.flatten import flatten
from tfx_finetune.models.backbones.pretrained import load_hub_preset
from tfx_finetune.types.components import BACKBONES, Backbone, Features, PretrainedCfg

_SAMPLE_RATE = 16_000
_WEIGHTS_FILE = "model.weights.h5"


@BACKBONES.register_for("audio")
def whisper(preset: str = "whisper_tiny_multi", seconds: float = 30.0) -> Backbone:
    """Load the encoder of Whisper: speech in about 100 languages, 50 feature vectors per second.

    Args:
        preset: Preset of keras-hub, such as `whisper_base_multi`, which keras-hub downloads, or the folder of a preset.
            Default `whisper_tiny_multi`.
        seconds: float in [0.1, 30]. Length of the input. The model was trained on 30 seconds; fine-tuning on shorter
            inputs costs less and is as accurate. Default 30.

    Raises:
        UserError: If keras-hub is not installed, the preset cannot be loaded, or the length is out of range.
    """
    if not 0.1 <= seconds <= 30:
        raise UserError("Option seconds of whisper() is out of range", got=seconds, expected="0.1 to 30")
    network = load_hub_preset("WhisperBackbone", preset)
    size = round(seconds * _SAMPLE_RATE)
    mel = log_mel.MelConfig(_SAMPLE_RATE, network.num_mels, 0.0, 8_000.0, 400, 160, 400, "slaney")
    inputs = log_mel.make_waveform_input(size)
    # The center of the first frame is the first sample; Whisper drops the last frame.
    half_window = mel.window_length // 2
    padded = keras.ops.pad(inputs, ((0, 0), (half_window, half_window - 1)), mode="reflect")
    mels = log_mel.convert_to_decibels(log_mel.compute_mel_power(padded, mel))
    x = keras.layers.Rescaling(1 / 40, 1.0, name="normalize")(mels)
    encoder = keras.Model(network.input["encoder_features"], network.output["encoder_sequence_output"])
    tokens = flatten(encoder, x)["encoder_layer_norm"]
    groups = graph.split_layer_groups(keras.Model(inputs, tokens), start_tensor=mels, min_kernels=1)
    pooled = keras.layers.GlobalAveragePooling1D(name="pooled")(tokens)
    return Backbone("audio", _make_pretrained_cfg(preset, size), inputs, Features(pooled, tokens=tokens), groups)


def _make_pretrained_cfg(preset: str, size: int) -> PretrainedCfg:
    """Return the input size and the origin of the weights, with the checksum of a local file."""
    cfg = PretrainedCfg(size=size, sample_rate=_SAMPLE_RATE)
    file = Path(preset).expanduser() / _WEIGHTS_FILE
    if file.is_file():
        return dataclasses.replace(cfg, origin=preset, sha256=files.sha256(file))
    return dataclasses.replace(cfg, origin=f"{preset} (keras-hub), OpenAI Whisper", license="MIT")
