"""What chooses an epoch and a file's rounding is the score that is reported, and no more is computed for it."""

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
    """A task, targets, and what was found."""
    if name == "detect":
        return TASK, *random_scenes(0)
    if name == "segment":
        return built(), blobs(5, 32, 3, 0), blobs(5, 32, 3, 1)
    rng = np.random.default_rng(0)
    target = np.eye(6, dtype=np.float32)[rng.integers(0, 6, 30)]
    return TASKS.build(parse_spec(name), LABELS), target, rng.dirichlet(np.ones(6), 30).astype(np.float32)


@pytest.mark.parametrize("name", LATER)
def test_a_part_of_the_scores_is_a_part_of_the_whole(name):
    """To the last bit, and without what takes long."""
    task, target, found = case(name)
    whole, part = task.compute_metrics(target, found), task.compute_metrics(target, found, full_report=False)
    floats = {key: value for key, value in part.items() if isinstance(value, float)}
    assert 0 < floats[task.monitor] < 1
    assert floats == {key: whole[key] for key in floats}
    assert LATER[name] <= set(whole)
    assert not LATER[name] & set(part)
    scores = {"x/scores": found}
    assert evaluate({"x": task}, {"x": target}, scores, full_report=False).keys() == {f"x/{key}" for key in part}
    assert evaluate({"x": task}, {"x": target}, scores).keys() == {f"x/{key}" for key in whole}


def test_an_epoch_is_scored_by_what_is_reported_and_no_more():
    """Logits of masks: the score of the validation samples is that of the whole, which nobody asked for."""
    asked = []
    task, target, _ = case("segment")
    logits = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    found = task.postprocess({name: np.asarray(x) for name, x in task.decode({"logits": tf.constant(logits)}).items()})

    def compute_metrics(*args, full_report=True):
        asked.append(full_report)
        return task.compute_metrics(*args, full_report=full_report)

    told = compute_validation_metrics(
        {"x": dataclasses.replace(task, compute_metrics=compute_metrics)}, {"x": target}, {"x/logits": logits}
    )
    assert asked == [False]
    assert told["val_score"] == told["val_x/miou"] == task.compute_metrics(target, found)["miou"]
