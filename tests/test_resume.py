"""A run that is interrupted goes on, and ends with the model that an undisturbed run gives."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import command


def interrupted(workdir: Path, flags: tuple[str, ...], epochs: int) -> subprocess.CompletedProcess:
    """Starts a run and interrupts it as Ctrl-C does once the phase `tune` has so many epochs."""
    arguments = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={workdir}"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    history = workdir / "checkpoints" / "tune" / "history.json"
    while process.poll() is None:
        if history.exists() and len(json.loads(history.read_text())["metrics"]["loss"]) >= epochs:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, "", errors)


def test_ctrl_c_and_go_on(trained, tmp_path):
    """Exits at once without a traceback; the same command continues and gives the same model."""
    workdir = tmp_path / "run"
    stopped = interrupted(workdir, trained.flags, 3)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command goes on from the last epoch" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    before = json.loads((workdir / "checkpoints" / "tune" / "history.json").read_text())
    assert not before["done"]
    assert 3 <= len(before["metrics"]["loss"]) < 12
    finished = command("train", *trained.flags, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    after = json.loads((workdir / "checkpoints" / "tune" / "history.json").read_text())
    assert after["done"]
    assert after["metrics"]["loss"][: len(before["metrics"]["loss"])] == before["metrics"]["loss"]
    assert answers(workdir) == answers(trained.workdir)


def test_a_finished_run_is_not_trained_again(trained):
    """The same command in a finished work folder writes the bundle anew from the kept weights."""
    history = trained.workdir / "checkpoints" / "tune" / "history.json"
    stamp, known = history.stat().st_mtime_ns, answers(trained.workdir)
    found = command("train", *trained.flags, f"--workdir={trained.workdir}")
    assert found.returncode == 0, found.stderr
    assert history.stat().st_mtime_ns == stamp
    assert answers(trained.workdir) == known


@pytest.mark.slow
def test_run_cfg_reproduces_the_run(trained, tmp_path):
    """The flag file that a run leaves gives the same model in another folder."""
    found = command("train", f"--flagfile={trained.workdir / 'run.cfg'}", f"--workdir={tmp_path / 'again'}")
    assert found.returncode == 0, found.stderr
    assert answers(tmp_path / "again") == answers(trained.workdir)


def test_a_work_folder_of_another_run_is_refused(trained):
    """Two runs in one folder would give a bundle of neither."""
    found = command("train", *trained.flags, "--seed=5", f"--workdir={trained.workdir}")
    assert found.returncode == 2
    assert "the work folder holds another run" in found.stderr
    assert "(differs in --seed); choose another --workdir, or delete it" in found.stderr


def answers(workdir: Path) -> dict:
    """The trained model's outputs on the golden samples."""
    return json.loads((workdir / "bundle" / "golden" / "outputs.json").read_text())
