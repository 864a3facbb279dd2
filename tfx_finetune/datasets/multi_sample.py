"""Augments that put other training samples into one: where they can stand, and which samples they take."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.ops.geometry import moved
from tfx_finetune.types.components import Source, Task
from tfx_finetune.types.localization import BACKGROUND, Change, Indexed, Partners


def check(augments: Mapping[str, tuple[str, Change]], drafts: Mapping[str, Task]) -> None:
    """Raises a `UserError` where such an augment stands beside a head that it would make wrong, or lacks masks."""
    found = _found(augments)
    labelled = [head for head, draft in drafts.items() if not draft.places]
    if found and labelled:
        received = f"{', '.join(found)} beside {', '.join(labelled)}"
        todo = "leave it out; mixup() and cutmix() mix labels"
        raise UserError("labels of whole pictures cannot be joined so", received=received, todo=todo)
    masked = [spec for spec, augment in found.items() if augment.masked]
    if masked and not any(draft.places.indexed for draft in drafts.values() if draft.places):
        allowed = "a head of masks, such as segment(), alone or beside detect()"
        raise UserError("masks alone say which pixels are to be pasted", received=", ".join(masked), allowed=allowed)


def check_source(source: Source, augments: Mapping[str, tuple[str, Change]]) -> None:
    """Raises a `UserError` where other samples are wanted of a source that is read in one order alone."""
    found = _found(augments)
    if found and not isinstance(source, Indexed):
        received = f"{', '.join(found)} beside {source.name}"
        todo = "leave it out, or take sources of files"
        raise UserError("of this data, other samples cannot be had beside one", received=received, todo=todo)


def named(tasks: Mapping[str, Task]) -> dict[str, tf.Tensor]:
    """What `Partners.apply` is told of the values in masks: `things`, and `values` of the classes of boxes."""
    located = [(task.labels.names, task.places.indexed) for task in tasks.values() if task.places]
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


def joined(
    augment: Partners, sample: dict[str, Any], seed: tf.Tensor, rows: np.ndarray, read: Callable[[tf.Tensor], Any]
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
        drawn = tf.random.stateless_uniform((augment.count,), which, 0, len(rows), tf.int64)
        others = [read(place) for place in tf.unstack(tf.gather(rows, drawn))]
        return moved(augment.apply(sample, others, inner))

    there = tf.random.stateless_uniform((), chance) < augment.probability
    return sample | tf.cond(there, put, lambda: moved(sample))


def _found(augments: Mapping[str, tuple[str, Change]]) -> dict[str, Partners]:
    return {spec: augment for spec, (_, augment) in augments.items() if isinstance(augment, Partners)}
