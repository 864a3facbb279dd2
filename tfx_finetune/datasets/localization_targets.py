"""Localization targets of samples: their columns, the fields that augments move, and the encoded targets."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.localization import LocalizationTarget
from tfx_finetune.types.task import Task


def map_localization_columns(tasks: Mapping[str, Task]) -> dict[str, LocalizationTarget]:
    """Return the localization target of each column that has one."""
    return {task.column: task.localization for task in tasks.values() if task.localization}


def read_annotations(
    tasks: Mapping[str, Task], source: Source, sample: Mapping[str, Any], decoded: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Read the annotations of a sample that augments move with its image.

    Args:
        tasks: Heads.
        source: Source of the sample, which tells the columns of paths.
        sample: Raw columns of the sample.
        decoded: Decoded image by tower; empty if nothing is decoded.

    Returns:
        Fields of all heads; see `LocalizationTarget.read_annotations`.
    """
    fields: dict[str, tf.Tensor] = {}
    for task in tasks.values():
        if task.localization and decoded:
            raw = sample[task.column]
            raw = tf.io.read_file(raw) if task.column in source.paths else raw
            (image,) = decoded.values()
            fields |= task.localization.read_annotations(raw, tf.shape(image)[:2])
    return fields


def encode_targets(
    tasks: Mapping[str, Task], sample: dict[str, Any], shape: tf.Tensor, modality: Modality
) -> dict[str, tf.Tensor]:
    """Encode the localization targets of a sample by head.

    Args:
        tasks: Heads.
        sample: Fields of `read_annotations`, after augmentation.
        shape: Shape of the augmented image.
        modality: Modality of the image, which tells how the image is placed in the model input.
    """
    localizations = {head: task.localization for head, task in tasks.items() if task.localization}
    if not localizations or not modality.letterbox:
        return {}
    size = shape[:2]
    letterbox = modality.letterbox(size)
    return {head: localization.encode(sample, size, letterbox) for head, localization in localizations.items()}
