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
from tfx_finetune.evaluation.scores import evaluate, predict_batches
from tfx_finetune.ops.arrays import evenly_spaced, take
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.tasks.outputs import postprocess_outputs
from tfx_finetune.training.phase_data import cache_prepared_split
from tfx_finetune.types.aliases import PredictFn
from tfx_finetune.types.deployment import Export, Servable
from tfx_finetune.types.task import Task

# A file is judged a dozen times and more.
_MAX_SAMPLES = 256


def compute_allowed_drop(limit: float, samples: int) -> float:
    """What a file may lose on a test set of so many samples.

    A limit of less than one sample would refuse a file for a single one that falls the other way, as happens between
    any two roundings, and one such sample says nothing of the file (sign test: p = 1). So a limit above 0 always
    allows one sample; 0 is taken at its word.
    """
    # The tiny rest is for the rounding of a difference of two means.
    return (max(limit, 1 / samples) if limit else 0.0) + 1e-9


def compute_score_drops(
    tasks: Mapping[str, Task], reference: Mapping[str, Any], scores: Mapping[str, Any]
) -> dict[str, float]:
    """What `scores` lose of each head's own score against `best`, by the score's name `<head>/<score>`."""
    named = (f"{head}/{task.monitor}" for head, task in tasks.items())
    return {name: reference[name] - scores[name] for name in named if name in reference}


def with_validation_gate(
    exports: Iterable[Export], data: Data, servable: Servable, workdir: Path, max_drop: float
) -> Servable:
    """The servable with `drop` and `allowed`, where an export chooses by them.

    Half of what `verify` allows is allowed: what is just enough on some samples is too little on others every other
    time. Without validation samples, the calibration samples count, and what the model itself says of them.
    """
    if not any(export.selective for export in exports):
        return servable
    model = make_predict_fn(servable.model)
    if count := data.table.size("val"):
        val = cache_prepared_split(data, "val", workdir)
        chosen = evenly_spaced(count, _MAX_SAMPLES)
        inputs, targets = take(val.inputs[0], chosen), take(val.targets, chosen)
        ours = postprocess_outputs(data.tasks, model(inputs))
    else:
        inputs = dict(servable.representative_dataset)
        ours = postprocess_outputs(data.tasks, model(inputs))
        targets = {head: _predictions_as_targets(task, ours[f"{head}/scores"]) for head, task in data.tasks.items()}
    best = evaluate(data.tasks, targets, ours, full_report=False)

    def drop(predict: PredictFn) -> float:
        _, theirs = predict_batches(predict, [(inputs, targets)], data.tasks)
        if not all(np.isfinite(values).all() for values in theirs.values()):
            return float("inf")
        # Every head by itself, as `verify` judges it.
        return max(
            compute_score_drops(data.tasks, best, evaluate(data.tasks, targets, theirs, full_report=False)).values()
        )

    count = len(next(iter(targets.values())))
    return dataclasses.replace(servable, score_drop_fn=drop, max_score_drop=compute_allowed_drop(max_drop / 2, count))


def _predictions_as_targets(task: Task, scores: np.ndarray) -> np.ndarray:
    """Scores (n, classes) as targets.

    Raises:
        UserError: What is found in a picture is none.
    """
    if task.localization:
        todo = "set --split.val above 0, or leave selective=True out"
        raise UserError("selective=True wants validation samples beside such a head", got="none", hint=todo)
    return np.eye(scores.shape[1])[scores.argmax(-1)] if task.single_label else scores > 0.5
