"""Localization targets of samples: their columns, what augments move, and targets by head."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfx_finetune.types.components import Modality, Source
from tfx_finetune.types.localization import LocalizationTarget
from tfx_finetune.types.task import Task


def map_localization_columns(tasks: Mapping[str, Task]) -> dict[str, LocalizationTarget]:
    """The columns of the data that say where something is."""
    return {task.column: task.localization for task in tasks.values() if task.localization}


def read_annotations(
    tasks: Mapping[str, Task], source: Source, sample: Mapping[str, Any], contents: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """What augments move of a sample beside the decoded picture; see `Places.read`."""
    found: dict[str, tf.Tensor] = {}
    for task in tasks.values():
        if task.localization and contents:
            raw = sample[task.column]
            raw = tf.io.read_file(raw) if task.column in source.paths else raw
            (content,) = contents.values()
            found |= task.localization.read_annotations(raw, tf.shape(content)[:2])
    return found


def encode_targets(
    tasks: Mapping[str, Task], sample: dict[str, Any], shape: tf.Tensor, modality: Modality
) -> dict[str, tf.Tensor]:
    """Targets by head of a sample whose picture, of this shape, is to be prepared."""
    found = {head: task.localization for head, task in tasks.items() if task.localization}
    if not found or not modality.letterbox:
        return {}
    size = shape[:2]
    lay = modality.letterbox(size)
    return {head: places.encode(sample, size, lay) for head, places in found.items()}
