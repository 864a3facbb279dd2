"""The learning rate range test of `train --find_lr`."""

import numpy as np
import pytest

from tests.helpers.commands import run_command
from tfx_finetune.core import assets, flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.run import workspace
from tfx_finetune.run.plan import check
from tfx_finetune.tune.lr_finder import find_steepest, smooth


def test_the_steepest_learning_rate_of_a_curve():
    """A loss that falls logistically over the logarithm of the learning rate falls fastest in the middle."""
    rates = np.logspace(-6, 0, 200)
    losses = 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))
    assert find_steepest(rates, losses) == pytest.approx(1e-3, rel=0.1)


def test_smoothing_keeps_a_constant():
    """The first values are not biased to zero; later ones are means with weights 0.1, 0.09, 0.081, ..."""
    assert np.allclose(smooth(np.full(5, 3.0)), 3.0)
    weights = 0.9 ** np.arange(3)[::-1]
    assert smooth(np.array([1.0, 5.0, 2.0]))[-1] == pytest.approx((weights @ [1.0, 5.0, 2.0]) / weights.sum())


@pytest.mark.slow
def test_the_command_plots_every_phase_and_does_not_claim_the_folder(trained_run, tmp_path):
    """The command suggests one learning rate per phase; a run can use the same folder afterwards."""
    flags = (*trained_run.flags, f"--workdir={tmp_path / 'run'}")
    result = run_command("train", *flags, "--find_lr")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["find_lr.svg"]
    for name in ("frozen", "finetune"):
        (line,) = [line for line in result.stderr.splitlines() if line.startswith(f"{name}: the loss fell fastest at ")]
        assert 1e-6 <= float(line.split(" at ")[1].split(" ")[0]) <= 1
    assert (tmp_path / "run" / "find_lr.svg").read_text().count("<svg") == 1
    run, _ = flagfile.parse_flags(["train", *flags], Run())
    workspace.claim_workdir(check(run))
    assets.set_cache_dir("")
