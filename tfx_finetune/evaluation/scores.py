"""Scores of any predict function on batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfx_finetune.tasks.outputs import postprocess_outputs, select_head_outputs
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.components import Task


def predict_batches(
    predict: Callable, batches: Iterable[tuple[Any, Batch]], tasks: Mapping[str, Task] | None = None
) -> tuple[Batch, Batch]:
    """Runs `predict` over batches of (inputs, targets) and returns all (targets, outputs), in order, as arrays.

    Decoded outputs of the tasks that are given are read: what is found in a picture takes less than all that was said
    of each of its places.
    """
    targets: dict[str, list[np.ndarray]] = {}
    outputs: dict[str, list[np.ndarray]] = {}
    for inputs, target in batches:
        for found, values in ((targets, target), (outputs, postprocess_outputs(tasks or {}, predict(inputs)))):
            for name, value in values.items():
                found.setdefault(name, []).append(np.asarray(value))
    joined = [{name: np.concatenate(parts) for name, parts in found.items()} for found in (targets, outputs)]
    return joined[0], joined[1]


def decode_outputs(tasks: Mapping[str, Task], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Each task's decoded outputs, `<head>/<name>`, of those of its head."""
    found: dict[str, Any] = {}
    for head, task in tasks.items():
        found |= {f"{head}/{name}": value for name, value in task.decode(select_head_outputs(outputs, head)).items()}
    return found


def mask_labeled(task: Task, targets: np.ndarray) -> np.ndarray:
    """Marks the samples with targets (n, ...) that a head is asked about, (n,): others have no class."""
    return np.any(targets, -1) if task.single_label else np.full(len(targets), True)


def evaluate(
    tasks: Mapping[str, Task],
    targets: Batch,
    outputs: Batch,
    slice_masks: Mapping[str, np.ndarray] | None = None,
    full_report: bool = True,
) -> dict[str, Any]:
    """Returns every score of every head that is asked about some of the samples, named `<head>/<score>`.

    Args:
        tasks: Heads by name.
        targets: By head, (n, ...).
        outputs: Decoded outputs, `<head>/scores` (n, classes), and `<head>/embedding` (n, dim) where names are points.
        slices: Samples of one language or source by its name, (n,) marks; each has scores `<head>/<score>[<name>]`.
        whole: Whether all are wanted, or each head's own score and what comes with it; see `Task.scores`.
    """
    from tfx_finetune.tasks.text_embeddings import EMBEDDING

    found: dict[str, Any] = {}
    for head, task in tasks.items():
        target, output = targets[head], outputs[f"{head}/scores"]
        mine = mask_labeled(task, target)
        if mine.any():
            own = task.compute_metrics(target[mine], output[mine], whole=full_report)
            if task.zero_shot:
                own |= task.zero_shot.retrieval_metrics(target[mine], outputs[f"{head}/{EMBEDDING}"][mine])
            found |= {f"{head}/{name}": value for name, value in own.items()}
        # A head of one language has no others to compare.
        for value, marked in ({} if task.heads_by else slice_masks or {}).items():
            if (rows := mine & marked).any():
                scores = task.compute_metrics(target[rows], output[rows], whole=full_report).items()
                found |= {f"{head}/{name}[{value}]": score for name, score in scores if isinstance(score, float)}
    return found
