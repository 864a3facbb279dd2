"""Distillation of the predictions of teachers (Hinton et al., arXiv 1503.02531).

The loss is (1 - alpha) * label loss + alpha * T^2 * KL divergence between teacher and student at temperature T. With
several teachers, the target is the mean of their probabilities. A teacher sees the same augmented view of a sample as
the student, preprocessed as the teacher needs it (consistent teaching, Beyer et al., arXiv 2106.05237, section 3.1).
Predictions for cached views are cached too; if every epoch has new views, the teachers predict every batch.

`keras.distillation.Distiller` is not used for three reasons:

- It passes the same tensor to student and teacher. Here, the student reads cached features, and a teacher reads images
  of its own size.
- It runs the teacher in every step. Here, most predictions are computed once.
- Its losses ignore sample weights.
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
from tfx_finetune.types.training import WeightedLosses

DISTILLATION = "distillation"
"""Output `<head>/distillation` of a student model: a copy of the head's logits for the distillation loss."""
_EPSILON = 1e-7


class LogitsDistillation(keras.losses.Loss):
    """T^2 times the Kullback-Leibler divergence of the student's softened probabilities from the teacher's.

    The factor T^2 keeps the size of the gradients independent of T (arXiv 1503.02531, section 2).

    Args:
        temperature: float > 0. T, divides the logits.
        single_label: True if each sample has one label. False for the mean over labels of the binary divergence, as in
            the loss of `tag()`.
    """

    def __init__(self, temperature: float, single_label: bool) -> None:
        super().__init__(name=DISTILLATION, reduction="mean_with_sample_weight")
        self.temperature, self.single_label = temperature, single_label

    def call(self, teacher_probs: Any, logits: Any) -> Any:
        """Return the loss of each sample, (batch,).

        Args:
            teacher_probs: float tensor (batch, labels). Probabilities of the teacher.
            logits: float tensor (batch, labels). Logits of the student.
        """
        ops, temperature = keras.ops, self.temperature
        teacher_probs = ops.clip(teacher_probs, _EPSILON, 1 - _EPSILON)
        if self.single_label:
            teacher = ops.log_softmax(ops.log(teacher_probs) / temperature, axis=-1)
            student = ops.log_softmax(logits / temperature, axis=-1)
            return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        teacher = (ops.log(teacher_probs) - ops.log(1 - teacher_probs)) / temperature
        student = logits / temperature
        positive, negative = (ops.log_sigmoid(sign * teacher) - ops.log_sigmoid(sign * student) for sign in (1, -1))
        probability = ops.sigmoid(teacher)
        return temperature**2 * ops.mean(probability * positive + (1 - probability) * negative, axis=-1)


def check_teacher_labels(data: Data, teachers: Sequence[Teacher], distill: DistillOptions) -> Data:
    """Check that the teachers know all labels of the data, and add a note on distillation to the data.

    Raises:
        UserError: If a teacher lacks a label.
    """
    if not teachers:
        return data
    for teacher in teachers:
        teacher.check_labels(data.tasks)
    paths = ", ".join(str(teacher.bundle.path) for teacher in teachers)
    note = f"distilled from {paths}: loss weight {distill.alpha:g}, temperature {distill.temperature:g}"
    progress.log(note)
    return dataclasses.replace(data, table=dataclasses.replace(data.table, warnings=(*data.table.warnings, note)))


def build_student_model(trainable_part: keras.Model, network: Network, has_teachers: bool) -> keras.Model:
    """Return the model with only the outputs that have a loss, and with a distillation output per head.

    Args:
        trainable_part: The model that a phase trains.
        network: The whole model.
        has_teachers: True to add the distillation outputs.
    """
    # Zero-shot and localizing heads have outputs that are used for prediction only.
    heads = [head for head, task in network.tasks.items() if task.zero_shot or task.localization]
    without_loss = [
        name for name in trainable_part.output if name.partition("/")[0] in heads and not name.endswith("/logits")
    ]
    if not has_teachers and not without_loss:
        return trainable_part
    outputs = {name: tensor for name, tensor in trainable_part.output.items() if name not in without_loss}
    if has_teachers:
        outputs |= {f"{head}/{DISTILLATION}": trainable_part.output[f"{head}/logits"] for head in network.tasks}
    return build_submodel(trainable_part.input, outputs, trainable_part.name)


def add_distillation_losses(
    losses: WeightedLosses, student_model: keras.Model, network: Network, distill: DistillOptions
) -> WeightedLosses:
    """Return the losses together with the distillation loss of each head that has a distillation output.

    Args:
        losses: Losses of the network.
        student_model: Model of `build_student_model`.
        network: The whole model.
        distill: Options of distillation.
    """
    by_output, weights = dict(losses.losses), dict(losses.weights)
    for head, task in network.tasks.items():
        if f"{head}/{DISTILLATION}" in student_model.output:
            by_output[f"{head}/{DISTILLATION}"] = LogitsDistillation(distill.temperature, task.single_label)
            weights[f"{head}/logits"] = 1 - distill.alpha
            weights[f"{head}/{DISTILLATION}"] = distill.alpha
    return WeightedLosses(by_output, weights)


def compute_teacher_probs(data: Data, context: TrainingContext, num_views: int) -> tuple[Batch, ...]:
    """Return the mean probabilities of the teachers for the training samples, from the cache if possible.

    Args:
        data: Samples of all splits.
        context: Settings of the run.
        num_views: int >= 1. Number of augmented views per sample; 1 is the sample without augmentation.

    Returns:
        For each view, probabilities (n, labels) by `<head>/distillation`.
    """
    by_teacher = [_get_or_compute_probs(teacher, data, context, num_views) for teacher in context.teachers]
    return tuple(_average_teachers(probs) for probs in zip(*by_teacher, strict=True))


def add_teacher_targets(
    batches: tf.data.Dataset, data: Data, teachers: Sequence[Teacher], first_epoch: int, end_epoch: int
) -> tf.data.Dataset:
    """Add the mean probabilities of the teachers to the targets of training batches.

    Args:
        batches: Training batches of `Data.make_epoch_batches` for the same epochs.
        data: Samples of all splits.
        teachers: The teachers.
        first_epoch: int >= 0. First epoch.
        end_epoch: int. Epoch after the last one.
    """
    # Order, augmentation and mixing depend on the seed and the epoch only, so these are the same samples and views.
    teacher_batches = [
        _prepare_for_teacher(teacher, data).make_epoch_batches("train", first_epoch, end_epoch) for teacher in teachers
    ]
    num_labels = {f"{head}/{DISTILLATION}": len(task.labels.names) for head, task in data.tasks.items()}
    towers_by_teacher = [list(batch.element_spec[0]) for batch in teacher_batches]

    def predict(*columns: np.ndarray) -> list[np.ndarray]:
        remaining, probs = iter(columns), []
        for teacher, towers in zip(teachers, towers_by_teacher, strict=True):
            inputs = {tower: next(remaining) for tower in towers}
            probs.append(_name_by_output(teacher.predict_probs(inputs, data.tasks)))
        mean = _average_teachers(probs)
        return [mean[name] for name in num_labels]

    def add_targets(student_batch: tuple, *teacher_batch: tuple) -> tuple[dict, dict, dict]:
        inputs, targets, weights = student_batch
        columns = [
            batch[0][tower] for batch, towers in zip(teacher_batch, towers_by_teacher, strict=True) for tower in towers
        ]
        probs = tf.numpy_function(predict, columns, [tf.float32] * len(num_labels))
        for tensor, count in zip(probs, num_labels.values(), strict=True):
            tensor.set_shape([None, count])
        return inputs, targets | dict(zip(num_labels, probs, strict=True)), weights

    return with_prefetch(tf.data.Dataset.zip((batches, *teacher_batches)).map(without_autograph(add_targets)))


def _prepare_for_teacher(teacher: Teacher, data: Data) -> Data:
    """Return the same samples and views, preprocessed for a teacher, without modality dropout."""
    return dataclasses.replace(
        data,
        modalities=teacher.bundle.modalities,
        tower_columns={tower: data.tower_columns[run_tower] for tower, run_tower in teacher.towers.items()},
        sampler=dataclasses.replace(data.sampler, modality_dropout=0.0),
    )


def _get_or_compute_probs(teacher: Teacher, data: Data, context: TrainingContext, num_views: int) -> list[Batch]:
    """Return the probabilities of one teacher for each view; views that are not cached are predicted first."""
    key = _teacher_cache_key(teacher, data, context.teacher_keys)
    paths = [cache_path(context.features_folder, key, view) for view in range(num_views)]
    if missing := [view for view, path in enumerate(paths) if not path.is_dir()]:
        batches_by_view: list[list[Batch]] = [[] for _ in missing]
        for predictions in _predict_views(teacher, data, missing):
            for batches, probs in zip(batches_by_view, predictions, strict=True):
                batches.append(probs)
        for view, batches in zip(missing, batches_by_view, strict=True):
            with files.write_atomically(paths[view]) as draft:
                draft.mkdir()
                for position, head in enumerate(data.tasks):
                    np.save(draft / f"{position}.npy", np.concatenate([probs[head] for probs in batches]))
    views = []
    for path in paths:
        path.touch()
        probs = {head: np.load(path / f"{i}.npy", mmap_mode="r") for i, head in enumerate(data.tasks)}
        views.append(_name_by_output(probs))
    return views


def _predict_views(teacher: Teacher, data: Data, views: Sequence[int]) -> Iterator[list[Batch]]:
    """Yield the probabilities of a teacher for batches of training samples, one per view."""
    teacher_data, count = _prepare_for_teacher(teacher, data), data.table.size("train")
    with progress.bar("teacher", count * len(views)) as advance:
        batches = teacher_data.make_view_batches("train", views, list(teacher_data.tower_columns))
        for batch in batches.as_numpy_iterator():
            yield [teacher.predict_probs(inputs, data.tasks) for inputs, _, _ in batch]
            advance(len(views) * len(next(iter(batch[0][0].values()))), f"{count} samples, {len(views)} views")


def _teacher_cache_key(teacher: Teacher, data: Data, keys: Mapping[str, Mapping[str, object]]) -> str:
    """Return the digest of everything that determines the predictions of a teacher except the view."""
    labels = {head: task.labels.names for head, task in data.tasks.items()}
    settings = {"teacher": teacher.bundle.manifest["sha256"], "labels": labels}
    digests = [fingerprint(data, tower, None, settings | dict(keys[tower])) for tower in data.tower_columns]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _average_teachers(teacher_probs: Sequence[Batch]) -> Batch:
    """Return the mean of the probabilities of several teachers; a single teacher's arrays stay memory-mapped."""
    if len(teacher_probs) == 1:
        return teacher_probs[0]
    return {
        name: np.mean([probs[name] for probs in teacher_probs], axis=0, dtype=np.float32) for name in teacher_probs[0]
    }


def _name_by_output(teacher_probs: Batch) -> Batch:
    return {f"{head}/{DISTILLATION}": values for head, values in teacher_probs.items()}
