"""Augments that put other training samples into one: where they can stand, and which samples they take."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import select_movable_fields
from tfx_finetune.types.components import Source
from tfx_finetune.types.localization import BACKGROUND, MultiSampleAugment, RandomAccessSource, SampleAugment
from tfx_finetune.types.task import Task


def check_augments(augments: Mapping[str, tuple[str, SampleAugment]], task_templates: Mapping[str, Task]) -> None:
    """Raises a `UserError` where such an augment stands beside a head that it would make wrong, or lacks masks."""
    found = _select_multi_sample_augments(augments)
    labelled = [head for head, draft in task_templates.items() if not draft.localization]
    if found and labelled:
        received = f"{', '.join(found)} beside {', '.join(labelled)}"
        todo = "leave it out; mixup() and cutmix() mix labels"
        raise UserError("labels of whole pictures cannot be joined so", got=received, hint=todo)
    masked = [spec for spec, augment in found.items() if augment.needs_masks]
    if masked and not any(
        draft.localization.has_class_indices for draft in task_templates.values() if draft.localization
    ):
        allowed = "a head of masks, such as segment(), alone or beside detect()"
        raise UserError("masks alone say which pixels are to be pasted", got=", ".join(masked), expected=allowed)


def check_source(source: Source, augments: Mapping[str, tuple[str, SampleAugment]]) -> None:
    """Raises a `UserError` where other samples are wanted of a source that is read in one order alone."""
    found = _select_multi_sample_augments(augments)
    if found and not isinstance(source, RandomAccessSource):
        received = f"{', '.join(found)} beside {source.name}"
        todo = "leave it out, or take sources of files"
        raise UserError("of this data, other samples cannot be had beside one", got=received, hint=todo)


def describe_mask_classes(tasks: Mapping[str, Task]) -> dict[str, tf.Tensor]:
    """What `Partners.apply` is told of the values in masks: `things`, and `values` of the classes of boxes."""
    located = [(task.labels.names, task.localization.has_class_indices) for task in tasks.values() if task.localization]
    masked = next((names for names, indexed in located if indexed), None)
    boxed = next((names for names, indexed in located if not indexed), None)
    if masked is None:
        return {}
    things = np.zeros(256, bool)
    things[: len(masked)] = [name != BACKGROUND for name in masked]
    found = {"things": tf.constant(things)}
    if boxed is None:
        return found
    return found | {"values": tf.constant([masked.index(name) if name in masked else -1 for name in boxed])}


def apply_multi_sample(
    augment: MultiSampleAugment,
    sample: dict[str, Any],
    seed: tf.Tensor,
    train_indices: np.ndarray,
    read_sample: Callable[[tf.Tensor], Any],
) -> dict[str, Any]:
    """Puts training samples into one, drawn by the seed alone; of a sample that stays as it is, no other one is read.

    Args:
        augment: What puts them there.
        sample: Decoded, with what moves beside its picture and what masks tell; see `Partners.apply`.
        seed: Stateless, (2,).
        rows: Places of the training samples in their source.
        read: A place -> the sample there, decoded, with what moves beside its picture.
    """
    chance, which, inner = (tf.random.experimental.stateless_fold_in(seed, place) for place in range(3))

    def put() -> dict[str, tf.Tensor]:
        drawn = tf.random.stateless_uniform((augment.num_samples,), which, 0, len(train_indices), tf.int64)
        others = [read_sample(place) for place in tf.unstack(tf.gather(train_indices, drawn))]
        return select_movable_fields(augment.apply(sample, others, inner))

    there = tf.random.stateless_uniform((), chance) < augment.probability
    return sample | tf.cond(there, put, lambda: select_movable_fields(sample))


def _select_multi_sample_augments(augments: Mapping[str, tuple[str, SampleAugment]]) -> dict[str, MultiSampleAugment]:
    return {spec: augment for spec, (_, augment) in augments.items() if isinstance(augment, MultiSampleAugment)}
