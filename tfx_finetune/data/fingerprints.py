"""What every readable sample looks or sounds like: a thumbnail, a fingerprint, sizes and levels."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.ops.tf_data import get_schema, parallel_map, select_samples, with_prefetch
from tfx_finetune.types.components import Modality, PretrainedCfg, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

THUMBNAIL_SIDE = 32
"""Of a thumbnail."""
SAMPLE_RATE = 16_000
# So large that no picture is decoded at a fraction of its size.
_FULL_SIZE = 1 << 20
# Quieter than this everything is one silence: 80 decibels below the loudest.
_MIN_LEVEL = 1e-4


@dataclass(frozen=True)
class SampleStatistics:
    """One row a readable sample, in the table's order.

    Attributes:
        prints: Fingerprint of the decoded content: of the pixels, of the waveform, of the words in lower case. Files
            of one content in two formats have one.
        thumbnails: uint8 (n, side, side, channels) of pictures; of recordings the spectrogram; None of texts.
        texts: Words in lower case, one blank between them; empty for others.
        measures: float (n,) by name: width, height, ...; seconds, ...; characters, words.
        channels: Of pictures, mean and mean square of each channel, (n, 3) each; None of others.
    """

    content_hashes: np.ndarray
    thumbnails: np.ndarray | None
    texts: tuple[str, ...]
    measurements: Mapping[str, np.ndarray]
    channel_moments: tuple[np.ndarray, np.ndarray] | None = None


def make_raw_modality(kind: str, plan: Plan) -> Modality:
    """The modality that decodes samples as they are, whatever a backbone would make of them."""
    as_is: dict[str, object] = {"loudness": "none", "trim": 0.0} if kind == "audio" else {}
    return build_modality(plan.run, kind, _make_pretrained_cfg(kind), **as_is)


def compute_statistics(source: Source, decoder: Modality, column: str, table: Table) -> SampleStatistics:
    """Reads every sample that the survey could read, once more, and keeps what it looks like.

    Args:
        source: The data.
        decoder: See `seen`.
        column: The data's column that it decodes.
        table: Of the survey.
    """
    whole = table.error == ""
    count = int(whole.sum())
    work = _STATISTICS_FNS.get(decoder.column, _compute_other_statistics)

    def each(_: tf.Tensor, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        content = tf.io.read_file(sample[column]) if column in source.paths else sample[column]
        return work(decoder.decode(content))

    found: dict[str, list[np.ndarray]] = {}
    with progress.bar("look at", count) as advance:
        for batch in with_prefetch(parallel_map(select_samples(source, whole), each).batch(64)).as_numpy_iterator():
            for name, values in batch.items():
                found.setdefault(name, []).append(values)
            advance(len(batch["print"]), f"{count} {decoder.unit}")
    return _make_statistics({name: np.concatenate(values) for name, values in found.items()})


def _make_statistics(found: dict[str, Any]) -> SampleStatistics:
    texts = tuple(normalize_words(text.decode()) for text in found.pop("text", ()))
    prints = [bytes(value).hex() for value in found.pop("print")]
    channels = (found.pop("mean"), found.pop("square")) if "mean" in found else None
    thumbnails = found.pop("thumbnail", None)
    measures = {name: values.astype(float) for name, values in found.items()}
    if texts:
        prints = list(texts)
        measures["words"] = np.array([len(text.split()) for text in texts], float)
    if channels:
        measures["brightness"] = channels[0].mean(1)
        measures["contrast"] = np.sqrt(np.maximum(channels[1].mean(1) - channels[0].mean(1) ** 2, 0))
    return SampleStatistics(np.array(prints, object), thumbnails, texts, measures, channels)


def normalize_words(text: str) -> str:
    """What stays the same of a text when case, marks and blanks change; the text itself where that is nothing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded


def _compute_image_statistics(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    values = tf.cast(pixels, tf.float32)
    small = tf.image.resize(values, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), antialias=True)
    return {
        "print": _hash_content(pixels),
        "thumbnail": tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8),
        "mean": tf.reduce_mean(values, (0, 1)),
        "square": tf.reduce_mean(tf.square(values), (0, 1)),
        "width": tf.shape(pixels)[1],
        "height": tf.shape(pixels)[0],
        "colour": tf.reduce_mean(tf.reduce_max(values, -1) - tf.reduce_min(values, -1)),
    }


def _compute_audio_statistics(samples: tf.Tensor) -> dict[str, tf.Tensor]:
    level = tf.sqrt(tf.reduce_mean(tf.square(samples)))
    return {
        "print": _hash_content(tf.cast(tf.round(samples * 32_767), tf.int32)),
        "thumbnail": _make_spectrogram(samples),
        "seconds": tf.size(samples) / SAMPLE_RATE,
        "decibels": 20 * tf.math.log(tf.maximum(level, _MIN_LEVEL)) / tf.math.log(10.0),
        "clipped": tf.reduce_mean(tf.cast(tf.abs(samples) > 0.999, tf.float32)),
    }


def _make_spectrogram(samples: tf.Tensor) -> tf.Tensor:
    """Mel bands over time, loudness over 60 decibels as grey, uint8 (side, side, 1)."""
    frames = tf.abs(tf.signal.stft(samples, 512, 160, pad_end=True))
    mel = tf.signal.linear_to_mel_weight_matrix(THUMBNAIL_SIDE, 257, SAMPLE_RATE, 80.0, 7_600.0)
    loud = tf.math.log(tf.matmul(frames, mel) + 1e-5) / tf.math.log(10.0) * 20
    grey = 255 * tf.clip_by_value((loud - tf.reduce_max(loud)) / 60 + 1, 0, 1)
    return tf.cast(
        tf.image.resize(tf.transpose(grey)[..., None], (THUMBNAIL_SIDE, THUMBNAIL_SIDE), antialias=True), tf.uint8
    )


def _compute_text_statistics(text: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"print": tf.fingerprint([text])[0], "text": text, "characters": tf.strings.length(text, "UTF8_CHAR")}


def _compute_other_statistics(decoded: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"print": _hash_content(decoded)}


def _hash_content(decoded: tf.Tensor) -> tf.Tensor:
    """128 bits of shape and content; 64 of content alone would take flat pictures of two shapes for one."""
    shape = tf.fingerprint(tf.shape(decoded)[None])[0]
    return tf.concat([shape, tf.fingerprint(decoded[None])[0]], 0)


_STATISTICS_FNS: Mapping[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
    "image": _compute_image_statistics,
    "audio": _compute_audio_statistics,
    "text": _compute_text_statistics,
}


def _make_pretrained_cfg(kind: str) -> PretrainedCfg:
    return PretrainedCfg(size=_FULL_SIZE if kind == "image" else 1, sample_rate=SAMPLE_RATE if kind == "audio" else 0)


def infer_modality(source: Source) -> str:
    """The first of image, audio and text that the data has; empty where it has none."""
    known = get_schema(source)
    return next((kind for kind in ("image", "audio", "text") if kind in known), "")
