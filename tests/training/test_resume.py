"""Tests of interrupted runs, which resume to the model of a run without interruption."""

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
from tests.helpers.commands import get_error, run_command, run_in_process


def stop_run(
    workdir: Path, flags: tuple[str, ...], when: str | int, sent_signal: signal.Signals
) -> subprocess.CompletedProcess:
    """Start a run and stop it when the work folder has a path of this pattern, or `finetune` this many epochs."""
    arguments = [sys.executable, "-m", "tfx_finetune.train", *flags, f"--workdir={workdir}"]
    # Shells ignore Ctrl-C for background processes, and child processes inherit that.
    reset_handler = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=reset_handler)
    while process.poll() is None:
        if len(read_history(workdir)["metrics"]["loss"]) >= when if isinstance(when, int) else any(workdir.glob(when)):
            process.send_signal(sent_signal)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, "", errors)


PHASE_FLAGS = (
    "--finetune.ema_momentum=0.5",
    "--finetune.soup_epochs=3",
    "--finetune.wise_ft",
    "--finetune.gradient_accumulation_steps=2",
    "--finetune.l2_sp",
)


@pytest.mark.slow
def test_a_run_resumes_after_several_kills(trained_run, tmp_path):
    """The run is killed while features are written, between phases, in a phase, and while a file is exported.

    It is also stopped by Ctrl-C, which ends it without a traceback. The same command resumes to the same model. The
    moving average, accumulated gradients and the epochs of a soup are part of the state.
    """
    pretrained = "--backbone=efficientnet_lite0(size=64)"
    fetch_asset("efficientnet-lite0")
    flags = (
        *trained_run.flags,
        *PHASE_FLAGS,
        pretrained,
        "--finetune.unfreeze=2",
        "--finetune.epochs=6",
        "--nocache.enabled",
    )
    flags += ("--exports=keras_file()",)
    reference = run_command("train", *flags, f"--workdir={tmp_path / 'reference'}")
    assert reference.returncode == 0, reference.stderr
    workdir = tmp_path / "run"
    for when in ("features/.*", "checkpoints/frozen/weights.npz"):
        kill_run(workdir, flags, when)
    stopped = stop_run(workdir, flags, 2, signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command resumes after the last epoch" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    losses = read_history(workdir)["metrics"]["loss"]
    assert not (workdir / "checkpoints" / "finetune" / "weights.npz").exists()
    assert 2 <= len(losses) < 6
    for when in (len(losses) + 1, ".bundle.*", "bundle/golden"):
        kill_run(workdir, flags, when)
        assert read_history(workdir)["metrics"]["loss"][: len(losses)] == losses
    finished = run_command("train", *flags, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    assert read_history(workdir)["metrics"] == read_history(tmp_path / "reference")["metrics"]
    assert read_golden_outputs(workdir) == read_golden_outputs(tmp_path / "reference")
    temporary = [path.name for path in workdir.rglob("*") if path.name.startswith(".") or path.name == "features"]
    assert temporary == []


def kill_run(workdir: Path, flags: tuple[str, ...], when: str | int) -> None:
    stopped = stop_run(workdir, flags, when, signal.SIGKILL)
    assert stopped.returncode == -signal.SIGKILL, (when, stopped.stderr)


def test_a_finished_run_is_not_trained_again(trained_run, tmp_path):
    """The same command in the work folder of a finished run writes the bundle again from the saved weights."""
    workdir = shutil.copytree(trained_run.workdir, tmp_path / trained_run.workdir.name)
    (workdir / "bundle" / "scores.json").unlink()
    history = workdir / "checkpoints" / "finetune" / "history.json"
    modified = history.stat().st_mtime_ns
    result = run_in_process("train", *trained_run.flags, "--exports=keras_file()", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert history.stat().st_mtime_ns == modified
    assert read_golden_outputs(workdir) == read_golden_outputs(trained_run.workdir)
    assert (workdir / "bundle" / "scores.json").exists()


def test_a_work_folder_of_another_run_raises_an_error(trained_run):
    """Two runs in one folder would mix their results."""
    error = get_error("train", *trained_run.flags, "--seed=5", f"--workdir={trained_run.workdir}")
    assert "The work folder holds another run: " in error
    assert "(differs in --seed). Choose another --workdir, or delete this one." in error


def read_history(workdir: Path) -> dict:
    """Return the history of phase `finetune` so far."""
    path = workdir / "checkpoints" / "finetune" / "history.json"
    return json.loads(path.read_text()) if path.exists() else {"metrics": {"loss": []}}


def read_golden_outputs(workdir: Path) -> dict:
    """Return the outputs of the trained model on the golden samples."""
    return json.loads((workdir / "bundle" / "golden" / "outputs.json").read_text())
