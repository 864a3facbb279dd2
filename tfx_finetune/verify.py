"""STATION: every exported file against the trained model: the same answers, and a score within the gate."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfx_finetune.bundle import Bundle
from tfx_finetune.contracts import Batch, Check, Predict, Task
from tfx_finetune.core import progress
from tfx_finetune.core.config import Verify
from tfx_finetune.core.errors import UserError
from tfx_finetune.evaluate import evaluate, predictions
from tfx_finetune.features import Store
from tfx_finetune.golden import Golden


def verify(bundle: Bundle, golden: Golden, test: Store, reference: tuple[Batch, Batch], gate: Verify) -> list[Check]:
    """Checks every file of a bundle.

    Args:
        bundle: The files.
        golden: Samples on which a file must agree with the trained model within its tolerance.
        test: Prepared test samples.
        reference: The trained model's (targets, decoded outputs) on `test`.
        gate: What a file may lose.
    """
    with progress.bar("verify", len(bundle.formats)) as advance:
        checks = []
        for format in bundle.formats:
            checks.append(_check(bundle, format, golden, test, reference, gate))
            advance(1, f"{format} {checks[-1].reason or 'agrees'}")
    return checks


def score(tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> float:
    """The one number that a model is judged by: the mean over heads of each task's own score."""
    return float(np.mean([scores[f"{head}/{task.score}"] for head, task in tasks.items()]))


def paired_interval(tasks: Mapping[str, Task], targets: Batch, ours: Batch, theirs: Batch) -> tuple[float, float]:
    """95 % interval of the score that `theirs` loses against `ours` on the same samples (paired normal interval)."""
    losses = [
        task.correct(targets[head], ours[f"{head}/scores"]) - task.correct(targets[head], theirs[f"{head}/scores"])
        for head, task in tasks.items()
    ]
    loss = np.mean(losses, axis=0)
    half = 1.96 * loss.std(ddof=1) / np.sqrt(len(loss)) if len(loss) > 1 else 0.0
    return float(loss.mean() - half), float(loss.mean() + half)


def difference(ours: Batch, theirs: Batch) -> float:
    """Largest absolute difference of two outputs; infinite where names, shapes or finiteness differ."""
    found = 0.0
    for name, values in ours.items():
        other = theirs.get(name)
        if other is None or other.shape != values.shape or not np.isfinite(other).all():
            return float("inf")
        found = max(found, float(np.abs(values - other).max()))
    return found


def _check(
    bundle: Bundle, format: str, golden: Golden, test: Store, reference: tuple[Batch, Batch], gate: Verify
) -> Check:
    export, tasks, column = bundle.export(format), bundle.tasks, bundle.modality.column
    try:
        reader = bundle.reader(format)
        apart = difference(golden.outputs, reader.predict(golden.inputs))
        if reader.serve:
            served = reader.serve({column: golden.raw})
            apart = max(apart, difference(golden.outputs, {name: served.get(name) for name in golden.outputs}))
    except UserError as error:
        return Check(format, {}, 0.0, 1.0, 1.0, 1.0, float("inf"), 0.0, str(error))
    if not np.isfinite(apart):
        why = "its outputs are not those of the model (not finite, or of another shape): the file is empty or broken"
        return Check(format, {}, 0.0, 1.0, 1.0, 1.0, apart, 0.0, why)
    targets, ours = reference
    _, theirs = predictions(reader.predict, (({column: x}, y) for x, y in test.batches(32)))
    scores = evaluate(tasks, targets, theirs)
    drop = score(tasks, evaluate(tasks, targets, ours)) - score(tasks, scores)
    allowed = gate.max_drop if export.quantized else gate.max_drop_float
    # A test set of n samples cannot tell apart less than one sample.
    allowed = max(allowed, 1 / len(test))
    why = ""
    if apart > export.tolerance:
        why = f"differs from the model by {apart:.2g} on a golden sample, allowed {export.tolerance:.2g}"
    elif drop > allowed:
        why = f"loses {drop:.4f} of the score, allowed {allowed:.4f}"
    low, high = paired_interval(tasks, targets, ours, theirs)
    return Check(
        format, scores, score(tasks, scores), drop, low, high, apart, _latency(reader.predict, golden.inputs), why
    )


def _latency(predict: Predict, inputs: Batch, repeats: int = 30) -> float:
    """Median milliseconds of one sample, after a warm-up."""
    one = {name: values[:1] for name, values in inputs.items()}
    predict(one)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        predict(one)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)
