"""What a file may lose, and what it loses on validation samples, for exports that choose by it.

Files are judged on the test split, by `verify`. An export that chose by test samples would choose its own judgement.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.scores import evaluate, predictions
from tfx_finetune.ops.arrays import evenly, rows
from tfx_finetune.ops.functional import predictor
from tfx_finetune.tasks.outputs import answers
from tfx_finetune.training.phase_data import prepared
from tfx_finetune.types.aliases import Predict
from tfx_finetune.types.components import Task
from tfx_finetune.types.deployment import Export, Servable

# A file is judged a dozen times and more.
_MOST = 256


def allowed_drop(limit: float, samples: int) -> float:
    """What a file may lose on a test set of so many samples.

    A limit of less than one sample would refuse a file for a single one that falls the other way, as happens between
    any two roundings, and one such sample says nothing of the file (sign test: p = 1). So a limit above 0 always
    allows one sample; 0 is taken at its word.
    """
    # The tiny rest is for the rounding of a difference of two means.
    return (max(limit, 1 / samples) if limit else 0.0) + 1e-9


def drops(tasks: Mapping[str, Task], best: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, float]:
    """What `scores` lose of each head's own score against `best`, by the score's name `<head>/<score>`."""
    named = (f"{head}/{task.score}" for head, task in tasks.items())
    return {name: best[name] - scores[name] for name in named if name in best}


def gated(exports: Iterable[Export], data: Data, served: Servable, workdir: Path, max_drop: float) -> Servable:
    """The servable with `drop` and `allowed`, where an export chooses by them.

    Half of what `verify` allows is allowed: what is just enough on some samples is too little on others every other
    time. Without validation samples, the calibration samples count, and what the model itself says of them.
    """
    if not any(export.selective for export in exports):
        return served
    model = predictor(served.model)
    if count := data.table.size("val"):
        val = prepared(data, "val", workdir)
        chosen = evenly(count, _MOST)
        inputs, targets = rows(val.inputs[0], chosen), rows(val.targets, chosen)
        ours = answers(data.tasks, model(inputs))
    else:
        inputs = dict(served.examples)
        ours = answers(data.tasks, model(inputs))
        targets = {head: _said(task, ours[f"{head}/scores"]) for head, task in data.tasks.items()}
    best = evaluate(data.tasks, targets, ours, whole=False)

    def drop(predict: Predict) -> float:
        _, theirs = predictions(predict, [(inputs, targets)], data.tasks)
        if not all(np.isfinite(values).all() for values in theirs.values()):
            return float("inf")
        # Every head by itself, as `verify` judges it.
        return max(drops(data.tasks, best, evaluate(data.tasks, targets, theirs, whole=False)).values())

    count = len(next(iter(targets.values())))
    return dataclasses.replace(served, drop=drop, allowed=allowed_drop(max_drop / 2, count))


def _said(task: Task, scores: np.ndarray) -> np.ndarray:
    """Scores (n, classes) as targets.

    Raises:
        UserError: What is found in a picture is none.
    """
    if task.places:
        todo = "set --samples.val above 0, or leave selective=True out"
        raise UserError("selective=True wants validation samples beside such a head", received="none", todo=todo)
    return np.eye(scores.shape[1])[scores.argmax(-1)] if task.single else scores > 0.5
