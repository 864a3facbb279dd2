"""Gate on the score drop of exported files, and the validation gate of selective exports.

`verify` tests files on the test split. An export that selects float operators by test samples would be tested on the
samples that it was selected on, so it uses validation samples.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfx_finetune.core.errors import UserError
from tfx_finetune.datasets.pipeline import Data
from tfx_finetune.evaluation.scores import evaluate, predict_batches, select_monitored_scores
from tfx_finetune.ops.arrays import evenly_spaced, take
from tfx_finetune.ops.functional import make_predict_fn
from tfx_finetune.tasks.outputs import postprocess_outputs
from tfx_finetune.training.phase_data import cache_prepared_split
from tfx_finetune.types.aliases import PredictFn
from tfx_finetune.types.deployment import Export, Servable
from tfx_finetune.types.task import Task

# A selective export evaluates a dozen files or more.
_MAX_SAMPLES = 256


def compute_allowed_drop(max_drop: float, num_samples: int) -> float:
    """Return the score that a file may lose on a test set of this size.

    A limit below one sample would refuse a file for a single changed prediction, which happens between any two
    roundings and is not significant (sign test: p = 1). So a limit above 0 allows at least one sample; 0 allows none.

    Examples:
        >>> round(compute_allowed_drop(0.01, 20), 3), round(compute_allowed_drop(0.01, 1000), 3)
        (0.05, 0.01)
    """
    # The tolerance is for the rounding error of a difference of two means.
    return (max(max_drop, 1 / num_samples) if max_drop else 0.0) + 1e-9


def compute_score_drops(
    tasks: Mapping[str, Task], reference: Mapping[str, Any], scores: Mapping[str, Any]
) -> dict[str, float]:
    """Compute the loss of each head's monitored score relative to `reference`, by `<head>/<score>`."""
    return {name: value - scores[name] for name, value in select_monitored_scores(tasks, reference).items()}


def with_validation_gate(
    exports: Iterable[Export], data: Data, servable: Servable, workdir: Path, max_drop: float
) -> Servable:
    """Return the servable with `score_drop_fn` and `max_score_drop` if an export is selective.

    Half of the gate of `verify` is allowed, because a selection that just fits on some samples fails on others every
    second time. Without validation samples, the calibration samples are used, with the model's predictions as targets.

    Args:
        exports: Exports of the run.
        data: Samples.
        servable: Input of the exports.
        workdir: Work folder.
        max_drop: float, 0 to 1. Value of `--verify.max_drop`.
    """
    if not any(export.selective for export in exports):
        return servable
    model = make_predict_fn(servable.model)
    if count := data.table.size("val"):
        val = cache_prepared_split(data, "val", workdir)
        indices = evenly_spaced(count, _MAX_SAMPLES)
        inputs, targets = take(val.inputs[0], indices), take(val.targets, indices)
        reference = postprocess_outputs(data.tasks, model(inputs))
    else:
        inputs = dict(servable.representative_dataset)
        reference = postprocess_outputs(data.tasks, model(inputs))
        targets = {
            head: _predictions_as_targets(task, reference[f"{head}/scores"]) for head, task in data.tasks.items()
        }
    reference_scores = evaluate(data.tasks, targets, reference, full_report=False)

    def compute_score_drop(predict: PredictFn) -> float:
        _, outputs = predict_batches(predict, [(inputs, targets)], data.tasks)
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return float("inf")
        scores = evaluate(data.tasks, targets, outputs, full_report=False)
        # The worst head counts, as in `verify`.
        return max(compute_score_drops(data.tasks, reference_scores, scores).values())

    count = len(next(iter(targets.values())))
    max_score_drop = compute_allowed_drop(max_drop / 2, count)
    return dataclasses.replace(servable, score_drop_fn=compute_score_drop, max_score_drop=max_score_drop)


def _predictions_as_targets(task: Task, scores: np.ndarray) -> np.ndarray:
    """Convert scores (n, classes) to targets.

    Raises:
        UserError: If the task localizes objects, whose predictions have another form than targets.
    """
    if task.localization:
        message = "selective=True needs validation samples for a detection or segmentation head"
        raise UserError(message, hint="set --split.val above 0, or leave out selective=True")
    return np.eye(scores.shape[1])[scores.argmax(-1)] if task.single_label else scores > 0.5
