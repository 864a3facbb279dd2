"""Teachers of `--teacher`: bundles whose predictions a run learns from."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.options import split_names
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.task import Task


@dataclass(frozen=True)
class Teacher:
    """Bundle whose predictions are the targets of distillation.

    Attributes:
        bundle: The opened bundle.
        towers: Tower of the run with the same input, by tower of the bundle and in its order.
    """

    bundle: Bundle
    towers: Mapping[str, str]

    @functools.cached_property
    def _predict_fn(self) -> PredictFn:
        # Every exported file would do; the Keras file runs on a GPU too.
        return self.bundle.load_model("keras" if "keras" in self.bundle.formats else "").predict

    def predict_probs(self, inputs: Batch, tasks: Mapping[str, Task]) -> Batch:
        """Predict the probabilities of the labels of the run.

        Args:
            inputs: Inputs (batch, ...) that are preprocessed for this teacher, by tower of the bundle.
            tasks: Heads of the run by name.

        Returns:
            float32 arrays (batch, labels) by head. The probabilities of single-label heads sum to 1.
        """
        outputs, probs_by_head = self._predict_fn(inputs), {}
        for head, task in tasks.items():
            columns = {name: column for column, name in enumerate(self.bundle.tasks[head].labels.names)}
            probs = outputs[f"{head}/scores"][:, [columns[name] for name in task.labels.names]]
            probs = np.asarray(probs, np.float32)
            if task.single_label:
                probs = probs / np.maximum(probs.sum(-1, keepdims=True), 1e-12)
            probs_by_head[head] = probs
        return probs_by_head

    def check_labels(self, tasks: Mapping[str, Task]) -> None:
        """Check that the teacher has the heads of the run and all their labels.

        Raises:
            UserError: If a head or a label is missing.
        """
        _check_heads(self.bundle, tasks)
        for head, task in tasks.items():
            teacher_labels = self.bundle.tasks[head].labels.names
            if missing := [name for name in task.labels.names if name not in teacher_labels]:
                raise UserError(
                    f"Bundle of --teacher lacks labels of head {head}",
                    got=f"{', '.join(missing)} ({self.bundle.path})",
                    hint="Choose a teacher with these labels, or leave --teacher out",
                )


def open_teachers(paths: str, modalities: Mapping[str, str], heads: Mapping[str, Task]) -> tuple[Teacher, ...]:
    """Open the teachers of a run.

    Args:
        paths: Paths of bundles, separated by commas.
        modalities: Modality of each tower of the run.
        heads: Heads of the run by name, with or without labels.

    Raises:
        UserError: If a path is not an intact bundle, or if a bundle has other inputs or heads than the run.
    """
    return tuple(_open_teacher(Bundle.open(path), modalities, heads) for path in split_names(paths))


def _open_teacher(bundle: Bundle, modalities: Mapping[str, str], heads: Mapping[str, Task]) -> Teacher:
    teacher_modalities = {tower: entry["modality"] for tower, entry in bundle.manifest["towers"].items()}
    # The names of single towers may differ.
    if len(teacher_modalities) == len(modalities) == 1:
        towers = dict(zip(teacher_modalities, modalities, strict=True))
    else:
        towers = {tower: tower for tower in teacher_modalities}
    if {towers[tower]: modality for tower, modality in teacher_modalities.items()} != dict(modalities):
        got = f"{_format_towers(teacher_modalities)} ({bundle.path})"
        raise UserError(
            "Bundle of --teacher has other inputs than this run", got=got, expected=_format_towers(modalities)
        )
    # The names of per-language heads come from the data, which is not read yet.
    _check_heads(bundle, {head: task for head, task in heads.items() if not task.heads_by})
    return Teacher(bundle, towers)


def _check_heads(bundle: Bundle, heads: Mapping[str, Task]) -> None:
    """Raise a `UserError` if the bundle lacks a head or has a head of another kind."""
    for head, task in heads.items():
        if head not in bundle.tasks:
            got = f"{', '.join(bundle.tasks)} ({bundle.path})"
            raise UserError(
                f"Bundle of --teacher has no head {head}", got=got, hint="Give the heads of --heads its names"
            )
        if bundle.tasks[head].single_label != task.single_label:
            got = f"{bundle.manifest['heads'][head]['task']} ({bundle.path})"
            expected = "a single-label head" if task.single_label else "a multi-label head"
            raise UserError(f"Head {head} of --teacher has another kind of task", got=got, expected=expected)


def _format_towers(modalities: Mapping[str, str]) -> str:
    return ", ".join(f"{tower} ({modality})" for tower, modality in modalities.items())
