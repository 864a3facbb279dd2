"""Bundles whose answers a run learns from, as far as their manifests tell: `--teacher`.

`teach.py` asks them. Distillation is that of Hinton et al., arXiv 1503.02531.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfx_finetune.bundle.bundle import Bundle
from tfx_finetune.core.errors import UserError
from tfx_finetune.types.aliases import Batch, PredictFn
from tfx_finetune.types.components import Task


@dataclass(frozen=True)
class Teacher:
    """One of the bundles.

    Attributes:
        bundle: The bundle.
        towers: Its towers, in order, each with the run's tower that sees the same.
    """

    bundle: Bundle
    towers: Mapping[str, str]

    @functools.cached_property
    def _predict_fn(self) -> PredictFn:
        # A compressed or int8 file would do; that of Keras runs on a GPU too.
        return self.bundle.load_model("keras" if "keras" in self.bundle.formats else "").predict

    def predict_probs(self, inputs: Batch, tasks: Mapping[str, Task]) -> Batch:
        """Its scores for the run's labels, float32 (batch, labels) by head; of a classifier they sum to one.

        Args:
            inputs: Prepared for this teacher, by the names of its towers.
            tasks: The run's heads.
        """
        outputs, found = self._predict_fn(inputs), {}
        for head, task in tasks.items():
            at = {name: position for position, name in enumerate(self.bundle.tasks[head].labels.names)}
            chosen = outputs[f"{head}/scores"][:, [at[name] for name in task.labels.names]]
            chosen = np.asarray(chosen, np.float32)
            found[head] = chosen / np.maximum(chosen.sum(-1, keepdims=True), 1e-12) if task.single_label else chosen
        return found

    def check_labels(self, tasks: Mapping[str, Task]) -> None:
        """Raises a `UserError` where the teacher lacks a head, or a head has labels that it does not know."""
        _check_heads(self.bundle, tasks)
        for head, task in tasks.items():
            known = self.bundle.tasks[head].labels.names
            if missing := [name for name in task.labels.names if name not in known]:
                raise UserError(
                    f"the teacher does not know all labels of {head}",
                    got=f"{', '.join(missing)} of the data, which {self.bundle.path} lacks",
                    hint="take a teacher of these labels, or leave --teacher out",
                )


def open_teachers(paths: str, modalities: Mapping[str, str], heads: Mapping[str, Task]) -> tuple[Teacher, ...]:
    """Opens the teachers of a run.

    Args:
        paths: Paths of bundles, separated by commas.
        modalities: What each of its towers takes.
        heads: Its heads; their labels need not be known yet.

    Raises:
        UserError: One is no bundle, was altered, takes something else than the run, or lacks one of its heads.
    """
    stripped = (path.strip() for path in paths.split(","))
    return tuple(_open_teacher(Bundle.open(path), modalities, heads) for path in stripped if path)


def _open_teacher(bundle: Bundle, modalities: Mapping[str, str], heads: Mapping[str, Task]) -> Teacher:
    theirs = {tower: entry["modality"] for tower, entry in bundle.manifest["towers"].items()}
    # A lone tower may bear another name.
    towers = (
        dict(zip(theirs, modalities, strict=True)) if len(theirs) == len(modalities) == 1 else {t: t for t in theirs}
    )
    if {towers[tower]: kind for tower, kind in theirs.items()} != dict(modalities):
        what = "the teacher takes something else than this run"
        raise UserError(what, got=f"{_format_towers(theirs)} ({bundle.path})", expected=_format_towers(modalities))
    # Heads by language have their names from the data.
    _check_heads(bundle, {head: task for head, task in heads.items() if not task.heads_by})
    return Teacher(bundle, towers)


def _check_heads(bundle: Bundle, heads: Mapping[str, Task]) -> None:
    for head, task in heads.items():
        if head not in bundle.tasks:
            received = f"{', '.join(bundle.tasks)} of {bundle.path}"
            raise UserError(f"the teacher has no head {head}", got=received, hint="name the heads alike")
        if bundle.tasks[head].single_label != task.single_label:
            received = f"{bundle.manifest['heads'][head]['task']} of {bundle.path}"
            raise UserError(f"the teacher's head {head} is of another kind", got=received)


def _format_towers(modalities: Mapping[str, str]) -> str:
    return ", ".join(f"{tower} ({kind})" for tower, kind in modalities.items())
