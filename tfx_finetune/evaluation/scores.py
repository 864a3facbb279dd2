"""Predictions over batches of samples, and the scores of the predictions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfx_finetune.tasks.outputs import postprocess_outputs, select_head_outputs
from tfx_finetune.types.aliases import Batch
from tfx_finetune.types.task import Task


def predict_batches(
    predict: Callable, batches: Iterable[tuple[Any, Batch]], tasks: Mapping[str, Task] | None = None
) -> tuple[Batch, Batch]:
    """Run a predict function over batches of (inputs, targets) and return all targets and outputs.

    Args:
        predict: Function from inputs (batch, ...) to outputs by name.
        batches: Iterable of (inputs, targets).
        tasks: Heads whose outputs are postprocessed batch by batch, or None. Detections need less memory than the raw
            outputs of every anchor point.

    Returns:
        Targets (n, ...) by head and outputs (n, ...) by name, in the order of the batches.

    Examples:
        >>> batches = [({"x": np.zeros(2)}, {"label": np.ones(2)}), ({"x": np.ones(1)}, {"label": np.zeros(1)})]
        >>> targets, outputs = predict_batches(lambda inputs: {"label/scores": inputs["x"] + 1}, batches)
        >>> targets["label"].tolist(), outputs["label/scores"].tolist()
        ([1.0, 1.0, 0.0], [1.0, 1.0, 2.0])
    """
    all_targets: dict[str, list[np.ndarray]] = {}
    all_outputs: dict[str, list[np.ndarray]] = {}
    for inputs, targets in batches:
        outputs = postprocess_outputs(tasks or {}, predict(inputs))
        for collected, batch in ((all_targets, targets), (all_outputs, outputs)):
            for name, values in batch.items():
                collected.setdefault(name, []).append(np.asarray(values))
    return _concatenate(all_targets), _concatenate(all_outputs)


def _concatenate(collected: Mapping[str, list[np.ndarray]]) -> Batch:
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def decode_outputs(tasks: Mapping[str, Task], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the raw outputs of all heads.

    Args:
        tasks: Heads by name.
        outputs: Raw outputs by `<head>/<name>`, such as `label/logits`.

    Returns:
        Decoded outputs by `<head>/<name>`, such as `label/scores`.
    """
    decoded: dict[str, Any] = {}
    for head, task in tasks.items():
        head_outputs = task.decode(select_head_outputs(outputs, head))
        decoded |= {f"{head}/{name}": value for name, value in head_outputs.items()}
    return decoded


def mask_labeled(task: Task, targets: np.ndarray) -> np.ndarray:
    """Return a boolean mask (n,) of the samples that have a label for this head.

    Args:
        task: The head.
        targets: Targets of the head (n, ...). The target of a sample without a label is all zeros.
    """
    return np.any(targets, -1) if task.single_label else np.full(len(targets), True)


def select_monitored_scores(tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> dict[str, float]:
    """Select the score that each head monitors, by `<head>/<score>`; heads without it are left out.

    Args:
        tasks: Tasks by head.
        scores: Scores by `<head>/<score>`.
    """
    names = (f"{head}/{task.monitor}" for head, task in tasks.items())
    return {name: scores[name] for name in names if name in scores}


def evaluate(
    tasks: Mapping[str, Task],
    targets: Batch,
    outputs: Batch,
    slice_masks: Mapping[str, np.ndarray] | None = None,
    full_report: bool = True,
) -> dict[str, Any]:
    """Compute the scores of all heads that have a labeled sample.

    Args:
        tasks: Heads by name.
        targets: Targets (n, ...) by head.
        outputs: Decoded outputs: `<head>/scores` (n, classes), and `<head>/embedding` (n, dim) of zero-shot heads.
        slice_masks: Boolean masks (n,) by slice, such as a language or source, or None. Heads of a single language are
            not evaluated on slices.
        full_report: True for all scores; False for the monitored score and what its computation gives at no cost.

    Returns:
        Scores by `<head>/<score>`, and scores of slices by `<head>/<score>[<slice>]`.
    """
    from tfx_finetune.tasks.text_embeddings import EMBEDDING

    scores: dict[str, Any] = {}
    for head, task in tasks.items():
        target, output = targets[head], outputs[f"{head}/scores"]
        mask = mask_labeled(task, target)
        if mask.any():
            head_scores = task.compute_metrics(target[mask], output[mask], full_report=full_report)
            if task.zero_shot:
                head_scores |= task.zero_shot.retrieval_metrics(target[mask], outputs[f"{head}/{EMBEDDING}"][mask])
            scores |= {f"{head}/{name}": value for name, value in head_scores.items()}
        for slice_name, slice_mask in ({} if task.heads_by else slice_masks or {}).items():
            if (rows := mask & slice_mask).any():
                slice_scores = task.compute_metrics(target[rows], output[rows], full_report=full_report).items()
                scores |= {
                    f"{head}/{name}[{slice_name}]": value for name, value in slice_scores if isinstance(value, float)
                }
    return scores
