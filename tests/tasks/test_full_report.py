"""Scores that select epochs and files equal the reported scores, without the slow ones."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.test_average_precision import TASK, random_scenes
from tests.tasks.test_segment import blobs, built
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.evaluation.scores import evaluate
from tfx_finetune.training.callbacks import compute_validation_metrics
from tfx_finetune.types.components import TASKS
from tfx_finetune.types.task import ClassLabels

LABELS = ClassLabels(("ä", "b", "c", "d", "e", "f"), (5,) * 6, 30)
LATER = {
    "detect": {"map_small", "map_medium", "map_large", "average_recall", "f1", "error_missed", "curves"},
    "segment": {"boundary_f1"},
    "classify": set(),
    "tag": set(),
}


def case(name):
    """Return a task, targets and predictions."""
    if name == "detect":
        return TASK, *random_scenes(0)
    if name == "segment":
        return built(), blobs(5, 32, 3, 0), blobs(5, 32, 3, 1)
    rng = np.random.default_rng(0)
    target = np.eye(6, dtype=np.float32)[rng.integers(0, 6, 30)]
    return TASKS.build(parse_spec(name), LABELS), target, rng.dirichlet(np.ones(6), 30).astype(np.float32)


@pytest.mark.parametrize("name", LATER)
def test_fast_metrics_equal_the_full_report(name):
    """With full_report=False, the metrics are equal to the bit, and slow ones are left out."""
    task, target, predictions = case(name)
    full, fast = task.compute_metrics(target, predictions), task.compute_metrics(target, predictions, full_report=False)
    floats = {key: value for key, value in fast.items() if isinstance(value, float)}
    assert 0 < floats[task.monitor] < 1
    assert floats == {key: full[key] for key in floats}
    assert LATER[name] <= set(full)
    assert not LATER[name] & set(fast)
    scores = {"x/scores": predictions}
    assert evaluate({"x": task}, {"x": target}, scores, full_report=False).keys() == {f"x/{key}" for key in fast}
    assert evaluate({"x": task}, {"x": target}, scores).keys() == {f"x/{key}" for key in full}


def test_validation_computes_only_fast_metrics():
    """The validation score of masks equals the reported one, and the full report is not computed."""
    full_report_args = []
    task, target, _ = case("segment")
    logits = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    predictions = task.postprocess(
        {name: np.asarray(x) for name, x in task.decode({"logits": tf.constant(logits)}).items()}
    )

    def compute_metrics(*args, full_report=True):
        full_report_args.append(full_report)
        return task.compute_metrics(*args, full_report=full_report)

    metrics = compute_validation_metrics(
        {"x": dataclasses.replace(task, compute_metrics=compute_metrics)}, {"x": target}, {"x/logits": logits}
    )
    assert full_report_args == [False]
    assert metrics["val_score"] == metrics["val_x/miou"] == task.compute_metrics(target, predictions)["miou"]
