"""Tests of confidence intervals of scores and score drops, and of differences of outputs."""

import math

import numpy as np
import pytest
from scipy import stats

from tfx_finetune.deploy.verify import max_abs_difference
from tfx_finetune.evaluation.intervals import paired_interval, wilson_interval
from tfx_finetune.tasks.classify import classify
from tfx_finetune.tasks.tag import tag
from tfx_finetune.types.task import ClassLabels


def make_outputs(is_correct):
    """Return scores of two classes for samples whose true class is the first one."""
    return {"a/scores": np.where(np.array(is_correct, bool)[:, None], [[0.9, 0.1]], [[0.1, 0.9]])}


@pytest.mark.parametrize(
    ("both", "reference_only", "candidate_only", "neither"), [(150, 12, 5, 28), (20, 0, 0, 0), (3, 4, 0, 1)]
)
def test_the_paired_interval_is_that_of_agresti_and_min(both, reference_only, candidate_only, neither):
    """By hand: half a sample is added to each cell of the 2 x 2 table of correct and wrong predictions."""
    task = classify(ClassLabels(("x", "y"), (1, 1), 2))
    reference = make_outputs([1] * both + [1] * reference_only + [0] * candidate_only + [0] * neither)
    candidate = make_outputs([1] * both + [0] * reference_only + [1] * candidate_only + [0] * neither)
    n = both + reference_only + candidate_only + neither + 2
    loss, win = (reference_only + 0.5) / n, (candidate_only + 0.5) / n
    mean = loss - win
    half = 1.96 * math.sqrt((loss + win - mean**2) / n)
    targets = {"a": np.tile([1.0, 0.0], (n - 2, 1))}
    assert paired_interval({"a": task}, targets, reference, candidate) == pytest.approx((mean - half, mean + half))
    # If the files are swapped, the loss has the other sign.
    assert paired_interval({"a": task}, targets, candidate, reference) == pytest.approx((-mean - half, -mean + half))


def test_the_paired_interval_of_a_large_test_set_is_that_of_a_bootstrap():
    """The loss is the mean over two heads, one with fractional scores; SciPy resamples the pairs."""
    rng = np.random.default_rng(0)
    labels = ClassLabels(("x", "y", "z"), (1, 1, 1), 3)
    tasks = {"a": classify(labels), "b": tag(labels)}
    targets = {"a": np.eye(3)[rng.integers(0, 3, 600)], "b": rng.random((600, 3)) < 0.4}
    reference = {f"{head}/scores": rng.dirichlet(np.ones(3), 600) + targets[head] for head in tasks}
    candidate = {name: values + rng.normal(size=values.shape) / 3 for name, values in reference.items()}
    loss = np.mean(
        [
            tasks[head].per_sample_score(targets[head], reference[f"{head}/scores"])
            - tasks[head].per_sample_score(targets[head], candidate[f"{head}/scores"])
            for head in tasks
        ],
        axis=0,
    )
    assert loss.mean() > 0.02
    resampled = stats.bootstrap((loss,), np.mean, rng=rng, n_resamples=5000).confidence_interval
    low, high = paired_interval(tasks, targets, reference, candidate)
    assert low == pytest.approx(resampled.low, abs=0.003)
    assert high == pytest.approx(resampled.high, abs=0.003)


def test_the_paired_interval_stays_within_minus_one_and_one():
    """Two samples give a very wide interval."""
    task = classify(ClassLabels(("x", "y"), (1, 1), 2))
    targets = {"a": np.array([[1.0, 0]] * 2)}
    low, high = paired_interval({"a": task}, targets, make_outputs([1, 1]), make_outputs([0, 0]))
    assert -1 <= low < 0 < high == 1


def test_the_interval_of_independent_samples_is_that_of_wilson():
    """SciPy has the same interval. Samples without a group, in single groups and in one common group are equal."""
    correct = np.array([1.0] * 41 + [0.0] * 9)
    expected = stats.binomtest(41, 50).proportion_ci(method="wilson")
    for groups in ([""] * 50, [str(row) for row in range(50)], ["all"] * 50):
        assert wilson_interval(correct, np.array(groups)) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_copies_of_samples_do_not_narrow_the_interval():
    """Four copies of each sample in a group give the interval of the single samples."""
    once = np.array([1.0] * 41 + [0.0] * 9)
    groups = np.repeat([f"thing {row}" for row in range(50)], 4)
    interval = wilson_interval(np.repeat(once, 4), groups)
    assert interval == pytest.approx(wilson_interval(once, np.array([""] * 50)), abs=2e-3)
    assert interval[1] - interval[0] > 1.9 * np.ptp(wilson_interval(np.repeat(once, 4), np.array([""] * 200)))


def test_the_interval_of_groups_is_that_of_a_bootstrap_of_groups():
    """Groups have different sizes and accuracies; the bootstrap resamples whole groups."""
    rng = np.random.default_rng(0)
    sizes, accuracies = rng.integers(1, 9, 300), rng.beta(4, 1, 300)
    groups = np.repeat([f"g{number}" for number in range(300)], sizes)
    correct = (rng.random(len(groups)) < np.repeat(accuracies, sizes)).astype(float)
    sums = np.array([correct[groups == name].sum() for name in dict.fromkeys(groups)])
    resampled = rng.integers(0, 300, (5000, 300))
    low, high = np.percentile(sums[resampled].sum(1) / sizes[resampled].sum(1), [2.5, 97.5])
    assert wilson_interval(correct, groups) == pytest.approx((low, high), abs=0.006)


def test_the_difference_is_infinite_if_outputs_do_not_match():
    """Names, shapes and finite values are compared; additional outputs of a file are ignored."""
    a = {"x": np.array([[0.1, 0.9]]), "y": np.array([[0.5]])}
    assert max_abs_difference(a, {"x": np.array([[0.2, 0.9]]), "y": np.array([[0.2]]), "z": None}) == pytest.approx(0.3)
    assert max_abs_difference(a, {"x": a["x"]}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([0.5])}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([[np.nan]])}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([[np.inf]])}) == math.inf
