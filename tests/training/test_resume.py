"""A run that is interrupted goes on, and ends with the model that an undisturbed run gives."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.assets import fetch_asset
from tests.helpers.commands import run_command, get_error, run_in_process


def stopped(workdir: Path, flags: tuple[str, ...], when: str | int, how: signal.Signals) -> subprocess.CompletedProcess:
    """Starts a run and stops it once a path of this pattern is in the work folder, or `finetune` has so many epochs."""
    arguments = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={workdir}"]
    # Where the tests run in the background, a shell has Ctrl-C ignored, and their processes inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while process.poll() is None:
        if len(history(workdir)["metrics"]["loss"]) >= when if isinstance(when, int) else any(workdir.glob(when)):
            process.send_signal(how)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, "", errors)


RECIPE = (
    "--finetune.ema_momentum=0.5",
    "--finetune.soup_epochs=3",
    "--finetune.wise_ft",
    "--finetune.gradient_accumulation_steps=2",
    "--finetune.l2_sp",
)


@pytest.mark.slow
def test_stopped_again_and_again(trained_run, tmp_path):
    """Killed without a chance to clean up, while features are kept, between phases and in one, and while a file is
    exported; and by Ctrl-C, which ends it at once without a traceback. The same command continues, to the same model.

    The moving average, gathered gradients and the epochs of a soup are part of what goes on.
    """
    pretrained = "--backbone=efficientnet_lite0(size=64)"
    fetch_asset("efficientnet-lite0")
    flags = (*trained_run.flags, *RECIPE, pretrained, "--finetune.unfreeze=2", "--finetune.epochs=6", "--nocache.enabled")
    flags += ("--exports=keras_file()",)
    whole = run_command("train", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    workdir = tmp_path / "run"
    for when in ("features/.*", "checkpoints/frozen/weights.npz"):
        killed(workdir, flags, when)
    found = stopped(workdir, flags, 2, signal.SIGINT)
    assert found.returncode == 130, found.stderr
    assert "the same command goes on from the last epoch" in found.stderr
    assert "Traceback" not in found.stderr
    before = history(workdir)["metrics"]["loss"]
    assert not (workdir / "checkpoints" / "finetune" / "weights.npz").exists()
    assert 2 <= len(before) < 6
    for when in (len(before) + 1, ".bundle.*", "bundle/golden"):
        killed(workdir, flags, when)
        assert history(workdir)["metrics"]["loss"][: len(before)] == before
    finished = run_command("train", *flags, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    assert history(workdir)["metrics"] == history(tmp_path / "whole")["metrics"]
    assert answers(workdir) == answers(tmp_path / "whole")
    left = [path.name for path in workdir.rglob("*") if path.name.startswith(".") or path.name == "features"]
    assert left == []


def killed(workdir: Path, flags: tuple[str, ...], when: str | int) -> None:
    found = stopped(workdir, flags, when, signal.SIGKILL)
    assert found.returncode == -signal.SIGKILL, (when, found.stderr)


def test_a_finished_run_is_not_trained_again(trained_run, tmp_path):
    """The same command in a finished work folder writes the bundle anew from the kept weights."""
    workdir = shutil.copytree(trained_run.workdir, tmp_path / trained_run.workdir.name)
    (workdir / "bundle" / "scores.json").unlink()
    history = workdir / "checkpoints" / "finetune" / "history.json"
    stamp = history.stat().st_mtime_ns
    found = run_in_process("train", *trained_run.flags, "--exports=keras_file()", f"--workdir={workdir}")
    assert found.returncode == 0, found.stderr
    assert history.stat().st_mtime_ns == stamp
    assert answers(workdir) == answers(trained_run.workdir)
    assert (workdir / "bundle" / "scores.json").exists()


def test_a_work_folder_of_another_run_is_refused(trained_run):
    """Two runs in one folder would give a bundle of neither."""
    said = get_error("train", *trained_run.flags, "--seed=5", f"--workdir={trained_run.workdir}")
    assert "the work folder holds another run" in said
    assert "(differs in --seed); choose another --workdir, or delete it" in said


def history(workdir: Path) -> dict:
    """What the phase `finetune` did so far."""
    path = workdir / "checkpoints" / "finetune" / "history.json"
    return json.loads(path.read_text()) if path.exists() else {"metrics": {"loss": []}}


def answers(workdir: Path) -> dict:
    """The trained model's outputs on the golden samples."""
    return json.loads((workdir / "bundle" / "golden" / "outputs.json").read_text())
