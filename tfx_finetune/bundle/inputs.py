"""Inputs of predictions: files, folders and samples with several inputs, read and preprocessed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.sources.data_files import find_files
from tfx_finetune.ops.tf_data import decode_or_empty
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import MODALITY_MASK, Modality

PredictInput = str | Path | Mapping[str, Any]
"""Input of a prediction: path of a file, or {tower: value} with the path of a file, a text, or content as bytes."""


class UnreadableError(ValueError):
    """Error of a sample that cannot be decoded, with a short reason."""


def expand_folders(samples: Iterable[PredictInput], modalities: Mapping[str, Modality]) -> Iterator[PredictInput]:
    """Yield the samples, with a folder replaced by its files of the model's modality.

    Args:
        samples: Files, folders, and samples with several inputs.
        modalities: Modalities by tower. Folders are only expanded for models with one tower.
    """
    first = next(iter(modalities.values()))
    for sample in samples:
        if isinstance(sample, Mapping):
            yield sample
        elif Path(sample).is_dir() and len(modalities) == 1:
            yield from find_files(Path(sample)).get(first.column, [])
        else:
            yield Path(sample)


def read_content(sample: PredictInput, modalities: Mapping[str, Modality]) -> dict[str, bytes]:
    """Read the raw content of a sample by tower.

    Args:
        sample: File, or sample with several inputs.
        modalities: Modalities by tower.

    Raises:
        UserError: If a model with several inputs gets a file without a name, or the model has no such input.
        UnreadableError: If an input of a sample has no content.
        OSError: If a file cannot be read.
    """
    towers = list(modalities)
    if not isinstance(sample, Mapping):
        if len(towers) > 1:
            hint = "name the value of each input, such as " + json.dumps(dict.fromkeys(towers, "..."))
            raise UserError("The model has several inputs", got=sample, expected=towers, hint=hint)
        return {towers[0]: Path(sample).read_bytes()}
    if unknown := set(sample) - set(towers):
        raise UserError("The model has no such input", got=min(unknown), expected=towers)
    has_several = len(towers) > 1
    return {
        tower: _read_tower_content(value, modalities[tower].inline, f"{tower}: " if has_several else "")
        for tower, value in sample.items()
        if value
    }


def _read_tower_content(value: Any, inline: bool, prefix: str) -> bytes:
    """Read the raw content of one input.

    Args:
        value: Bytes, path of a file, or text.
        inline: True if the value is the content itself, such as a text.
        prefix: Start of error messages.
    """
    if isinstance(value, bytes):
        return value
    try:
        if inline:
            if not isinstance(value, (str, int, float)):
                raise UnreadableError(f"expected a text, got {type(value).__name__}")
            return str(value).encode("utf-8", "surrogatepass")
        if not isinstance(value, (str, os.PathLike)):
            raise UnreadableError(f"expected the path of a file or its content, got {type(value).__name__}")
        if content := Path(value).read_bytes():
            return content
        # Empty content would count as a missing input.
        raise UnreadableError("empty file")
    except (OSError, ValueError) as error:
        raise UnreadableError(prefix + (getattr(error, "strerror", None) or str(error))) from None


def make_preprocess(modalities: Mapping[str, Modality]) -> Callable[[Mapping[str, bytes]], Batch]:
    """Return a function that preprocesses one sample; see `Bundle.preprocess`.

    Args:
        modalities: Modalities by tower.
    """
    graphs = {tower: _make_graph(modality) for tower, modality in modalities.items()}
    has_several = len(modalities) > 1

    def preprocess(raw: Mapping[str, bytes]) -> Batch:
        if not any(raw.values()) and has_several:
            raise UnreadableError(f"has none of {', '.join(modalities)}")
        inputs = {}
        for tower, modality in modalities.items():
            content = raw.get(tower, b"")
            try:
                is_present = bool(content) or not has_several
                inputs[tower] = graphs[tower](tf.constant(content), tf.constant(is_present)).numpy()[None]
            except tf.errors.OpError as error:
                prefix = f"{tower}: " if has_several else ""
                raise UnreadableError(prefix + modality.error_message(error)) from None
        if has_several:
            inputs[MODALITY_MASK] = np.array([[bool(raw.get(tower)) for tower in modalities]], np.float32)
        return inputs

    return preprocess


def _make_graph(modality: Modality) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(
        lambda raw, is_present: modality.prepare(decode_or_empty(modality, raw, is_present)), autograph=False
    )
