"""The heads learn from a teacher's answers beside the labels (Hinton et al., arXiv 1503.02531).

The loss is (1 - w) * that of the labels + w * T^2 * the difference from the answers, both softened by T. Of several
teachers that is the mean of their probabilities. A teacher sees the very view of a sample that the run sees, prepared
as it needs it: consistent teaching, without which a student learns answers to other pictures (Beyer et al., arXiv
2106.05237, section 3.1). Answers to kept views are kept too; where every epoch has new views, it answers every batch.

`keras.distillation.Distiller` does not fit: it feeds student and teacher the same tensor, where here the trained part
sees the kept outputs of a frozen trunk and a teacher pictures of its own size; it asks the teacher in every step, where
here most answers are computed once; and its losses know no sample weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfx_finetune.core import files, progress
from tfx_finetune.core.config import DistillOptions
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.models.network import Network
from tfx_finetune.ops.functional import build_submodel
from tfx_finetune.ops.tf_data import with_prefetch, without_autograph
from tfx_finetune.training.context import TrainingContext
from tfx_finetune.training.feature_cache import cache_path, fingerprint
from tfx_finetune.training.teacher import Teacher
from tfx_finetune.types.aliases import Batch

DISTILLATION = "taught"
"""Output `<head>/taught` of what is trained: the head's logits once more, for the loss of the teacher's answers."""
_EPSILON = 1e-7


class LogitsDistillation(keras.losses.Loss):
    """T^2 times the Kullback-Leibler divergence of a head's softened answers from the teacher's, which is least, 0,
    where they are equal. T^2 keeps its gradients of one size whatever T is (arXiv 1503.02531, section 2).

    Args:
        temperature: T, above 0.
        single: Whether the head's labels exclude one another; else it is the mean over its labels, as the loss of
            `tag()` is.
    """

    def __init__(self, temperature: float, single_label: bool) -> None:
        super().__init__(name=DISTILLATION, reduction="mean_with_sample_weight")
        self.temperature, self.single_label = temperature, single_label

    def call(self, teacher_probs: Any, logits: Any) -> Any:
        """Returns the loss of each sample, (batch,).

        Args:
            answers: The teacher's probabilities, (batch, labels).
            logits: The student's, (batch, labels).
        """
        ops, hot = keras.ops, self.temperature
        teacher_probs = ops.clip(teacher_probs, _EPSILON, 1 - _EPSILON)
        if self.single_label:
            theirs = ops.log_softmax(ops.log(teacher_probs) / hot, axis=-1)
            mine = ops.log_softmax(logits / hot, axis=-1)
            return hot**2 * ops.sum(ops.exp(theirs) * (theirs - mine), axis=-1)
        theirs, mine = (ops.log(teacher_probs) - ops.log(1 - teacher_probs)) / hot, logits / hot
        yes, no = (ops.log_sigmoid(sign * theirs) - ops.log_sigmoid(sign * mine) for sign in (1, -1))
        share = ops.sigmoid(theirs)
        return hot**2 * ops.mean(share * yes + (1 - share) * no, axis=-1)


def check_teacher_labels(data: Data, teachers: Sequence[Teacher], distill: DistillOptions) -> Data:
    """Checks that the teachers know the labels of the data, and notes them with it.

    Raises:
        UserError: One lacks a label.
    """
    if not teachers:
        return data
    for teacher in teachers:
        teacher.check_labels(data.tasks)
    paths = ", ".join(str(teacher.bundle.path) for teacher in teachers)
    note = f"taught by {paths}: {distill.alpha:g} of the loss, at temperature {distill.temperature:g}"
    progress.log(note)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, warnings=(*data.table.warnings, note)))


def build_student_model(trainable_part: keras.Model, network: Network, taught: bool) -> keras.Model:
    """What a phase trains: the outputs that have a loss, where there is a teacher one more a head for its answers."""
    answered = [head for head, task in network.tasks.items() if task.zero_shot or task.localization]
    named = [
        name for name in trainable_part.output if name.partition("/")[0] in answered and not name.endswith("/logits")
    ]
    if not taught and not named:
        return trainable_part
    own = {name: tensor for name, tensor in trainable_part.output.items() if name not in named}
    again = {f"{head}/{DISTILLATION}": trainable_part.output[f"{head}/logits"] for head in network.tasks if taught}
    return build_submodel(trainable_part.input, own | again, trainable_part.name)


def add_distillation_losses(
    losses: tuple[dict[str, Any], dict[str, float]],
    student_model: keras.Model,
    network: Network,
    distill: DistillOptions,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Losses and their weights by output, those of a teacher's answers among them where `top` is a `pupil`."""
    found, weights = dict(losses[0]), dict(losses[1])
    for head, task in network.tasks.items():
        if f"{head}/{DISTILLATION}" in student_model.output:
            found[f"{head}/{DISTILLATION}"] = LogitsDistillation(distill.temperature, task.single_label)
            weights[f"{head}/logits"] = 1 - distill.alpha
            weights[f"{head}/{DISTILLATION}"] = distill.alpha
    return found, weights


def compute_teacher_probs(data: Data, context: TrainingContext, num_views: int) -> tuple[Batch, ...]:
    """The teachers' mean answers to views of the training samples, from disk if they are there, else computed and kept.

    Args:
        data: The samples.
        context: Settings of the run.
        views: How many views of each sample; 1 is the sample itself.

    Returns:
        For each view, scores (n, labels) by `<head>/taught`.
    """
    each = [_get_or_compute_probs(teacher, data, context, num_views) for teacher in context.teachers]
    return tuple(_average_teachers(of_view) for of_view in zip(*each, strict=True))


def add_teacher_targets(
    batches: tf.data.Dataset, data: Data, teachers: Sequence[Teacher], first_epoch: int, end_epoch: int
) -> tf.data.Dataset:
    """Training batches of `Data.epochs` with the teachers' mean answers among the targets."""
    # Order, augmentation and mixing depend on the seed and the epoch alone, so these are the same samples and views.
    seen = [
        _prepare_for_teacher(teacher, data).make_epoch_batches("train", first_epoch, end_epoch) for teacher in teachers
    ]
    counts = {f"{head}/{DISTILLATION}": len(task.labels.names) for head, task in data.tasks.items()}
    names = [list(part.element_spec[0]) for part in seen]

    def ask(*columns: np.ndarray) -> list[np.ndarray]:
        left, found = iter(columns), []
        for teacher, towers in zip(teachers, names, strict=True):
            found.append(_name_by_output(teacher.predict_probs({tower: next(left) for tower in towers}, data.tasks)))
        mean = _average_teachers(found)
        return [mean[name] for name in counts]

    def taught(mine: tuple, *theirs: tuple) -> tuple[dict, dict, dict]:
        inputs, targets, weights = mine
        columns = [part[0][tower] for part, towers in zip(theirs, names, strict=True) for tower in towers]
        found = tf.numpy_function(ask, columns, [tf.float32] * len(counts))
        for answer, count in zip(found, counts.values(), strict=True):
            answer.set_shape([None, count])
        return inputs, targets | dict(zip(counts, found, strict=True)), weights

    return with_prefetch(tf.data.Dataset.zip((batches, *seen)).map(without_autograph(taught)))


def _prepare_for_teacher(teacher: Teacher, data: Data) -> Data:
    """The same samples and views of them, prepared as a teacher needs them, no tower of them left out."""
    return dataclasses.replace(
        data,
        modalities=teacher.bundle.modalities,
        tower_columns={theirs: data.tower_columns[mine] for theirs, mine in teacher.towers.items()},
        sampler=dataclasses.replace(data.sampler, modality_dropout=0.0),
    )


def _get_or_compute_probs(teacher: Teacher, data: Data, context: TrainingContext, num_views: int) -> list[Batch]:
    """One teacher's answers, by view."""
    key = _teacher_cache_key(teacher, data, context.teacher_keys)
    places = [cache_path(context.features_folder, key, view) for view in range(num_views)]
    if missing := [view for view, place in enumerate(places) if not place.is_dir()]:
        parts: list[list[Batch]] = [[] for _ in missing]
        for batch in _predict_views(teacher, data, missing):
            for part, found in zip(parts, batch, strict=True):
                part.append(found)
        for view, part in zip(missing, parts, strict=True):
            with files.write_atomically(places[view]) as draft:
                draft.mkdir()
                for position, head in enumerate(data.tasks):
                    np.save(draft / f"{position}.npy", np.concatenate([found[head] for found in part]))
    for place in places:
        place.touch()
    return [
        _name_by_output({head: np.load(place / f"{at}.npy", mmap_mode="r") for at, head in enumerate(data.tasks)})
        for place in places
    ]


def _predict_views(teacher: Teacher, data: Data, views: Sequence[int]) -> Iterator[list[Batch]]:
    """A teacher's answers to batches of training samples, by view."""
    seen, count = _prepare_for_teacher(teacher, data), data.table.size("train")
    with progress.bar("teacher", count * len(views)) as advance:
        for batch in seen.make_view_batches("train", views, list(seen.tower_columns)).as_numpy_iterator():
            yield [teacher.predict_probs(inputs, data.tasks) for inputs, _, _ in batch]
            advance(len(views) * len(next(iter(batch[0][0].values()))), f"{count} samples, {len(views)} views")


def _teacher_cache_key(teacher: Teacher, data: Data, keys: Mapping[str, Mapping[str, object]]) -> str:
    """Digest of what determines a teacher's answers, apart from the view."""
    labels = {head: task.labels.names for head, task in data.tasks.items()}
    settings = {"teacher": teacher.bundle.manifest["sha256"], "labels": labels}
    digests = [fingerprint(data, tower, None, settings | dict(keys[tower])) for tower in data.tower_columns]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _average_teachers(teacher_probs: Sequence[Batch]) -> Batch:
    """The mean of several teachers' answers; of one, as they lie on disk."""
    if len(teacher_probs) == 1:
        return teacher_probs[0]
    return {
        name: np.mean([found[name] for found in teacher_probs], axis=0, dtype=np.float32) for name in teacher_probs[0]
    }


def _name_by_output(teacher_probs: Batch) -> Batch:
    return {f"{head}/{DISTILLATION}": values for head, values in teacher_probs.items()}
