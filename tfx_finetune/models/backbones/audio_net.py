"""A small network without pretrained weights, for short sounds."""

import keras

from tfx_finetune.core.errors import UserError
from tfx_finetune.models.backbones import graph, log_mel
from tfx_finetune.types.components import BACKBONES, Backbone, Features, PretrainedCfg


@BACKBONES.register_for("audio")
def audio_net(
    seconds: float = 2.0,
    sample_rate: int = 16_000,
    mels: int = 64,
    widths: tuple[int, ...] = (32, 64, 128, 128),
    segments: int = 2,
) -> Backbone:
    """Two convolutions with BatchNormalization a stage on a log-mel spectrogram; trained from scratch.

    Args:
        seconds: Length of the input.
        rate: Samples a second, 4,000 to 192,000; sounds above half of it are lost.
        mels: Bands of the spectrogram, 8 to 256, which end at 3.8 kHz for each 8,000 samples a second.
        widths: Channels of each stage; each but the first has half as many frames and bands as the one before.
        parts: The features are averaged over so many equal parts of the time, 1 or more, which stand side by side.
    """
    size = round(seconds * sample_rate)
    mel = log_mel.make_mel_config(sample_rate, mels)
    least = 2 ** (len(widths) - 1)
    if not widths or mels < least or mel.count_frames(size) < least:
        allowed = f"at least {least} mels and {least} frames, of which there are {mel.count_frames(size)}"
        raise UserError("audio_net cannot be of this form", got=f"{seconds}, {mels}, {widths}", expected=allowed)
    inputs = log_mel.make_waveform_input(size)
    picture = log_mel.normalize_loudness(log_mel.compute_mel_power(inputs, mel))
    x = keras.layers.Reshape((*picture.shape[1:], 1), name="picture")(picture)
    x = keras.layers.Rescaling(2.0, -1.0, name="normalize")(x)
    for stage, width in enumerate(widths, 1):
        for part, stride in (("a", 1 if stage == 1 else 2), ("b", 1)):
            name = f"stage{stage}{part}"
            x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False, name=name)(x)
            # Keras's statistics need hundreds of steps to follow, which small data does not have.
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    # Averaged over the bands.
    x = keras.layers.AveragePooling2D((1, x.shape[2]), name="bands")(x)
    tokens = keras.layers.Reshape((x.shape[1], x.shape[3]), name="tokens")(x)
    groups = graph.split_layer_groups(keras.Model(inputs, tokens), start_tensor=picture)
    features = Features(log_mel.average_segments(tokens, segments), tokens=tokens)
    return Backbone("audio", PretrainedCfg(size=size, sample_rate=sample_rate), inputs, features, groups)
