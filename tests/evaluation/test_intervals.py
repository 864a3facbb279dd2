"""How sure a test set can be of a score and of a difference, and what a difference is."""

import math

import numpy as np
import pytest
from scipy import stats

from tfx_finetune.deploy.verify import max_abs_difference
from tfx_finetune.evaluation.intervals import paired_interval, wilson_interval
from tfx_finetune.tasks.classify import classify
from tfx_finetune.tasks.tag import tag
from tfx_finetune.types.task import ClassLabels


def outputs(right):
    """Scores of two classes that are right, or wrong, about a truth that is always the first one."""
    return {"a/scores": np.where(np.array(right, bool)[:, None], [[0.9, 0.1]], [[0.1, 0.9]])}


@pytest.mark.parametrize(("both", "ours", "theirs", "neither"), [(150, 12, 5, 28), (20, 0, 0, 0), (3, 4, 0, 1)])
def test_the_interval_is_that_of_agresti_and_min(both, ours, theirs, neither):
    """Their formula by hand: half a pair is added to each cell of the table of pairs."""
    task = classify(ClassLabels(("x", "y"), (1, 1), 2))
    a = outputs([1] * both + [1] * ours + [0] * theirs + [0] * neither)
    b = outputs([1] * both + [0] * ours + [1] * theirs + [0] * neither)
    n = both + ours + theirs + neither + 2
    only_ours, only_theirs = (ours + 0.5) / n, (theirs + 0.5) / n
    mean = only_ours - only_theirs
    half = 1.96 * math.sqrt((only_ours + only_theirs - mean**2) / n)
    truth = {"a": np.tile([1.0, 0.0], (n - 2, 1))}
    assert paired_interval({"a": task}, truth, a, b) == pytest.approx((mean - half, mean + half))
    # Turned round it is the same loss with the other sign.
    assert paired_interval({"a": task}, truth, b, a) == pytest.approx((-mean - half, -mean + half))


def test_the_interval_of_a_large_test_set_is_that_of_resampling():
    """Of the mean over two heads, one of which gives parts of a sample, against SciPy's bootstrap of the pairs."""
    rng = np.random.default_rng(0)
    labels = ClassLabels(("x", "y", "z"), (1, 1, 1), 3)
    tasks = {"a": classify(labels), "b": tag(labels)}
    targets = {"a": np.eye(3)[rng.integers(0, 3, 600)], "b": rng.random((600, 3)) < 0.4}
    ours = {f"{head}/scores": rng.dirichlet(np.ones(3), 600) + targets[head] for head in tasks}
    theirs = {name: values + rng.normal(size=values.shape) / 3 for name, values in ours.items()}
    loss = np.mean(
        [
            tasks[head].correct(targets[head], ours[f"{head}/scores"])
            - tasks[head].correct(targets[head], theirs[f"{head}/scores"])
            for head in tasks
        ],
        axis=0,
    )
    assert loss.mean() > 0.02
    resampled = stats.bootstrap((loss,), np.mean, rng=rng, n_resamples=5000).confidence_interval
    low, high = paired_interval(tasks, targets, ours, theirs)
    assert low == pytest.approx(resampled.low, abs=0.003)
    assert high == pytest.approx(resampled.high, abs=0.003)


def test_the_interval_stays_within_what_is_possible():
    """Two samples say next to nothing."""
    task = classify(ClassLabels(("x", "y"), (1, 1), 2))
    low, high = paired_interval({"a": task}, {"a": np.array([[1.0, 0]] * 2)}, outputs([1, 1]), outputs([0, 0]))
    assert -1 <= low < 0 < high == 1


def test_the_interval_of_independent_samples_is_wilsons():
    """As SciPy has it, whether they are of no group or each of its own."""
    correct = np.array([1.0] * 41 + [0.0] * 9)
    expected = stats.binomtest(41, 50).proportion_ci(method="wilson")
    for groups in ([""] * 50, [str(row) for row in range(50)], ["all"] * 50):
        assert wilson_interval(correct, np.array(groups)) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_copies_of_a_sample_do_not_make_it_surer():
    """Each sample four times over is as good as once; n of one group alone are counted as they are."""
    once = np.array([1.0] * 41 + [0.0] * 9)
    groups = np.repeat([f"thing {row}" for row in range(50)], 4)
    found = wilson_interval(np.repeat(once, 4), groups)
    assert found == pytest.approx(wilson_interval(once, np.array([""] * 50)), abs=2e-3)
    assert found[1] - found[0] > 1.9 * np.ptp(wilson_interval(np.repeat(once, 4), np.array([""] * 200)))


def test_the_interval_of_groups_is_that_of_resampling_them():
    """Groups of different sizes that are more or less right, against a bootstrap of whole groups."""
    rng = np.random.default_rng(0)
    sizes, chances = rng.integers(1, 9, 300), rng.beta(4, 1, 300)
    groups = np.repeat([f"g{number}" for number in range(300)], sizes)
    correct = (rng.random(len(groups)) < np.repeat(chances, sizes)).astype(float)
    sums = np.array([correct[groups == name].sum() for name in dict.fromkeys(groups)])
    drawn = rng.integers(0, 300, (5000, 300))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    assert wilson_interval(correct, groups) == pytest.approx((low, high), abs=0.006)


def test_difference_is_the_largest_and_infinite_where_there_is_none():
    """Names, shapes and finiteness count; what else a file gives does not."""
    a = {"x": np.array([[0.1, 0.9]]), "y": np.array([[0.5]])}
    assert max_abs_difference(a, {"x": np.array([[0.2, 0.9]]), "y": np.array([[0.2]]), "z": None}) == pytest.approx(0.3)
    assert max_abs_difference(a, {"x": a["x"]}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([0.5])}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([[np.nan]])}) == math.inf
    assert max_abs_difference(a, {"x": a["x"], "y": np.array([[np.inf]])}) == math.inf
