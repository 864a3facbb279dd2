"""Augments that combine training samples, such as mosaic(): checks, and selection of the other samples."""

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
    """Check that augments of several samples fit the heads.

    Args:
        augments: Augments by spec string, each with its modality.
        task_templates: Heads, built for any classes.

    Raises:
        UserError: If a head has labels of whole images, or if an augment needs masks and no head has them.
    """
    multi_sample = _select_multi_sample_augments(augments)
    label_heads = [head for head, task in task_templates.items() if not task.localization]
    if multi_sample and label_heads:
        got = f"{', '.join(multi_sample)} with {', '.join(label_heads)}"
        hint = "leave these augments out; mixup() and cutmix() mix labels"
        raise UserError("Augments of several samples cannot combine labels of whole images", got=got, hint=hint)
    with_masks = [spec for spec, augment in multi_sample.items() if augment.needs_masks]
    localizations = [task.localization for task in task_templates.values() if task.localization]
    if with_masks and not any(localization.has_class_indices for localization in localizations):
        expected = "a head of masks, such as segment(), alone or with detect()"
        raise UserError("An augment needs masks", got=", ".join(with_masks), expected=expected)


def check_source(source: Source, augments: Mapping[str, tuple[str, SampleAugment]]) -> None:
    """Check that a source can read samples by index if an augment needs other samples.

    Raises:
        UserError: If the source reads samples only in order.
    """
    multi_sample = _select_multi_sample_augments(augments)
    if multi_sample and not isinstance(source, RandomAccessSource):
        got, hint = f"{', '.join(multi_sample)} with {source.name}", "leave these augments out, or use files as data"
        raise UserError("The data cannot be read by index, which an augment needs", got=got, hint=hint)


def describe_mask_classes(tasks: Mapping[str, Task]) -> dict[str, tf.Tensor]:
    """Return the fields `things` and `values` of `MultiSampleAugment.apply`; empty without a head of masks."""
    labels = [(task.labels.names, task.localization.has_class_indices) for task in tasks.values() if task.localization]
    mask_names = next((names for names, has_class_indices in labels if has_class_indices), None)
    box_names = next((names for names, has_class_indices in labels if not has_class_indices), None)
    if mask_names is None:
        return {}
    things = np.zeros(256, bool)
    things[: len(mask_names)] = [name != BACKGROUND for name in mask_names]
    fields = {"things": tf.constant(things)}
    if box_names is None:
        return fields
    values = [mask_names.index(name) if name in mask_names else -1 for name in box_names]
    return fields | {"values": tf.constant(values)}


def apply_multi_sample(
    augment: MultiSampleAugment,
    sample: dict[str, Any],
    seed: tf.Tensor,
    train_indices: np.ndarray,
    read_sample: Callable[[tf.Tensor], Any],
) -> dict[str, Any]:
    """Apply an augment with other training samples that depend on the seed only.

    The other samples are not read if the sample stays unchanged.

    Args:
        augment: The augment.
        sample: Decoded sample with its annotations and the fields of `describe_mask_classes`.
        seed: int tensor (2,). Stateless seed.
        train_indices: int array. Indices of the training samples in their source.
        read_sample: Index -> decoded sample with its annotations.
    """
    apply_seed, index_seed, inner_seed = (tf.random.experimental.stateless_fold_in(seed, number) for number in range(3))

    def combine() -> dict[str, tf.Tensor]:
        positions = tf.random.stateless_uniform((augment.num_samples,), index_seed, 0, len(train_indices), tf.int64)
        others = [read_sample(index) for index in tf.unstack(tf.gather(train_indices, positions))]
        return select_movable_fields(augment.apply(sample, others, inner_seed))

    is_applied = tf.random.stateless_uniform((), apply_seed) < augment.probability
    return sample | tf.cond(is_applied, combine, lambda: select_movable_fields(sample))


def _select_multi_sample_augments(augments: Mapping[str, tuple[str, SampleAugment]]) -> dict[str, MultiSampleAugment]:
    return {spec: augment for spec, (_, augment) in augments.items() if isinstance(augment, MultiSampleAugment)}
