"""Content hash, thumbnail and measurements of every readable sample."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core import progress
from tfx_finetune.datasets.modalities.build import build_modality
from tfx_finetune.ops.image import round_to_uint8
from tfx_finetune.ops.tf_data import get_schema, parallel_map, select_samples, with_prefetch
from tfx_finetune.types.components import Modality, PretrainedCfg, Source
from tfx_finetune.types.plan import Plan
from tfx_finetune.types.table import Table

THUMBNAIL_SIDE = 32
"""Height and width of a thumbnail in pixels."""
SAMPLE_RATE = 16_000
"""Sample rate of decoded audio in Hz."""
# Large enough that no JPEG file is decoded at a reduced size.
_FULL_SIZE = 1 << 20
# RMS level that counts as silence: -80 dB.
_MIN_LEVEL = 1e-4


@dataclass(frozen=True)
class SampleStatistics:
    """Statistics of the readable samples, in the order of the table.

    Attributes:
        content_hashes: object array (n,). Hash of the decoded content: pixels, waveform or normalized words. Equal
            content in two file formats has equal hashes.
        thumbnails: uint8 array (n, 32, 32, channels). Thumbnails of images, spectrograms of audio; None for text.
        texts: Normalized texts, see `normalize_words`; empty for images and audio.
        measurements: float array (n,) by name, such as width and height, seconds, or characters and words.
        channel_moments: Mean and mean square of each color channel of images, float (n, 3) each; None for others.
    """

    content_hashes: np.ndarray
    thumbnails: np.ndarray | None
    texts: tuple[str, ...]
    measurements: Mapping[str, np.ndarray]
    channel_moments: tuple[np.ndarray, np.ndarray] | None = None


def make_raw_modality(modality_name: str, plan: Plan) -> Modality:
    """Return a modality that decodes samples without the preprocessing of a backbone.

    Args:
        modality_name: `image`, `audio`, `text` or the name of a plugin's modality.
        plan: Plan of the run.
    """
    options: dict[str, object] = {"loudness": "none", "trim": 0.0} if modality_name == "audio" else {}
    return build_modality(plan.run, modality_name, _make_pretrained_cfg(modality_name), **options)


def compute_statistics(source: Source, modality: Modality, column: str, table: Table) -> SampleStatistics:
    """Read every readable sample and compute its statistics.

    Args:
        source: Data source.
        modality: Modality from `make_raw_modality`.
        column: Name of the data column that the modality decodes.
        table: Table of all samples.
    """
    is_readable = table.error == ""
    count = int(is_readable.sum())
    statistics_fn = _STATISTICS_FNS.get(modality.column, _compute_other_statistics)

    def decode_and_measure(_: tf.Tensor, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        content = tf.io.read_file(sample[column]) if column in source.paths else sample[column]
        return statistics_fn(modality.decode(content))

    batches: dict[str, list[np.ndarray]] = {}
    samples = parallel_map(select_samples(source, is_readable), decode_and_measure)
    with progress.bar("measure", count) as advance:
        for batch in with_prefetch(samples.batch(64)).as_numpy_iterator():
            for name, values in batch.items():
                batches.setdefault(name, []).append(values)
            advance(len(batch["hash"]), f"{count} {modality.unit}")
    return _make_statistics({name: np.concatenate(values) for name, values in batches.items()})


def normalize_words(text: str) -> str:
    """Return the words of a text in lower case, separated by spaces; the lower-case text if it has no words.

    Args:
        text: Text in any script.

    Examples:
        >>> normalize_words("Hello,  WORLD!")
        'hello world'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded


def infer_modality(source: Source) -> str:
    """Return the first of `image`, `audio` and `text` that is a column of the data; empty if there is none.

    Args:
        source: Data source.
    """
    columns = get_schema(source)
    return next((name for name in ("image", "audio", "text") if name in columns), "")


def _make_statistics(columns: dict[str, Any]) -> SampleStatistics:
    """Return the record of the statistics that the TensorFlow functions computed."""
    texts = tuple(normalize_words(text.decode()) for text in columns.pop("text", ()))
    hashes = [bytes(value).hex() for value in columns.pop("hash")]
    channel_moments = (columns.pop("mean"), columns.pop("square")) if "mean" in columns else None
    thumbnails = columns.pop("thumbnail", None)
    measurements = {name: values.astype(float) for name, values in columns.items()}
    if texts:
        hashes = list(texts)
        measurements["words"] = np.array([len(text.split()) for text in texts], float)
    if channel_moments:
        mean, square = channel_moments
        measurements["brightness"] = mean.mean(1)
        measurements["contrast"] = np.sqrt(np.maximum(square.mean(1) - mean.mean(1) ** 2, 0))
    return SampleStatistics(np.array(hashes, object), thumbnails, texts, measurements, channel_moments)


def _compute_image_statistics(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the statistics of uint8 pixels (height, width, channels)."""
    values = tf.cast(pixels, tf.float32)
    thumbnail = tf.image.resize(values, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), antialias=True)
    return {
        "hash": _hash_content(pixels),
        "thumbnail": round_to_uint8(thumbnail),
        "mean": tf.reduce_mean(values, (0, 1)),
        "square": tf.reduce_mean(tf.square(values), (0, 1)),
        "width": tf.shape(pixels)[1],
        "height": tf.shape(pixels)[0],
        "chroma": tf.reduce_mean(tf.reduce_max(values, -1) - tf.reduce_min(values, -1)),
    }


def _compute_audio_statistics(samples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the statistics of a waveform (samples,) in [-1, 1]."""
    level = tf.sqrt(tf.reduce_mean(tf.square(samples)))
    return {
        "hash": _hash_content(tf.cast(tf.round(samples * 32_767), tf.int32)),
        "thumbnail": _make_spectrogram(samples),
        "seconds": tf.size(samples) / SAMPLE_RATE,
        "decibels": 20 * tf.math.log(tf.maximum(level, _MIN_LEVEL)) / tf.math.log(10.0),
        "clipped": tf.reduce_mean(tf.cast(tf.abs(samples) > 0.999, tf.float32)),
    }


def _make_spectrogram(samples: tf.Tensor) -> tf.Tensor:
    """Return a mel spectrogram with a dynamic range of 60 dB as a thumbnail, uint8 (side, side, 1)."""
    frames = tf.abs(tf.signal.stft(samples, 512, 160, pad_end=True))
    mel = tf.signal.linear_to_mel_weight_matrix(THUMBNAIL_SIDE, 257, SAMPLE_RATE, 80.0, 7_600.0)
    decibels = tf.math.log(tf.matmul(frames, mel) + 1e-5) / tf.math.log(10.0) * 20
    gray = 255 * tf.clip_by_value((decibels - tf.reduce_max(decibels)) / 60 + 1, 0, 1)
    return tf.cast(
        tf.image.resize(tf.transpose(gray)[..., None], (THUMBNAIL_SIDE, THUMBNAIL_SIDE), antialias=True), tf.uint8
    )


def _compute_text_statistics(text: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the statistics of a UTF-8 text."""
    return {"hash": tf.fingerprint([text])[0], "text": text, "characters": tf.strings.length(text, "UTF8_CHAR")}


def _compute_other_statistics(decoded: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the content hash of a sample of a plugin's modality."""
    return {"hash": _hash_content(decoded)}


def _hash_content(decoded: tf.Tensor) -> tf.Tensor:
    """Return a 128-bit hash of shape and content: images of one color with different shapes get different hashes."""
    shape = tf.fingerprint(tf.shape(decoded)[None])[0]
    return tf.concat([shape, tf.fingerprint(decoded[None])[0]], 0)


_STATISTICS_FNS: Mapping[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
    "image": _compute_image_statistics,
    "audio": _compute_audio_statistics,
    "text": _compute_text_statistics,
}


def _make_pretrained_cfg(modality_name: str) -> PretrainedCfg:
    """Return input settings that keep the full size of a sample."""
    if modality_name == "image":
        return PretrainedCfg(size=_FULL_SIZE)
    return PretrainedCfg(size=1, sample_rate=SAMPLE_RATE if modality_name == "audio" else 0)
