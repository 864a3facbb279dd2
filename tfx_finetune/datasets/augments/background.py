"""Recordings of a place behind what is said."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops import audio
from tfx_finetune.types.aliases import AugmentFn
from tfx_finetune.types.components import AUGMENTS

_MAX_SECONDS = 60.0
_MAX_FILES = 50


@AUGMENTS.register_for("audio")
def background_noise(
    path: str, snr: tuple[float, float] = (5.0, 25.0), probability: float = 0.5, sample_rate: int = 16_000
) -> AugmentFn:
    """Mixes a piece of another recording, of a street, a room or music, under a recording.

    Args:
        path: A folder of recordings without speech; the first minute of up to 50 is used.
        snr: Range of the recording's power over the background's, in decibels.
        probability: Share of the recordings that get one, 0 to 1.
        rate: Samples a second that the backbone takes.

    Raises:
        UserError: There is no recording in the folder, one cannot be read, or an option is out of range.
    """
    if not (snr[0] <= snr[1] and 0 <= probability <= 1 and sample_rate > 0):
        received = f"snr={snr}, probability={probability}, rate={sample_rate}"
        allowed = "least <= most, and a probability of 0 to 1"
        raise UserError("background is out of range", got=received, expected=allowed)
    pieces = tuple(_find_recordings(path))

    def apply(sample: dict[str, Any], seed: tf.Tensor) -> dict[str, Any]:
        samples, behind = sample["audio"], tf.constant(_concatenate_recordings(pieces, sample_rate))
        chance, decibels, start = tf.unstack(tf.random.stateless_uniform((3,), seed))
        # Behind the end of the last recording comes the first one.
        total = behind.shape[0]
        places = tf.cast(start * total, tf.int32) + tf.range(tf.shape(samples)[0])
        piece = tf.gather(behind, places % total)
        wanted = 10 ** (-(snr[0] + decibels * (snr[1] - snr[0])) / 20)
        level = wanted * tf.sqrt(_compute_power(samples) / tf.maximum(_compute_power(piece), 1e-10))
        mixed = tf.clip_by_value(samples + level * piece, -1.0, 1.0)
        return sample | {"audio": tf.where(chance < probability, mixed, samples)}

    return apply


def _compute_power(samples: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(samples))


def _find_recordings(path: str) -> list[Path]:
    folder = Path(path).expanduser()
    found = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    if not found:
        raise UserError("no recordings for background in this folder", got=path)
    return found[:_MAX_FILES]


@functools.lru_cache(maxsize=2)
def _concatenate_recordings(files: tuple[Path, ...], sample_rate: int) -> np.ndarray:
    """The recordings one after the other, each as loud as the others."""
    found = []
    for file in files:
        try:
            samples = audio.decode_audio(file.read_bytes(), sample_rate, _MAX_SECONDS)
        except ValueError as error:
            raise UserError("a background that cannot be read", got=f"{file} ({error})") from None
        found.append(samples / max(float(np.sqrt(np.square(samples).mean())), 1e-5))
    return np.concatenate(found)
