"""Run the tests with the lowest or newest versions that setup.cfg allows, in a new environment.

    python scripts/lowest_test.py build/lowest lowest python3.11         (make test-lowest PYTHON=python3.11)
    python scripts/lowest_test.py build/newest newest python3.13         (make test-newest PYTHON=python3.13)

uv installs the lowest or newest versions of all requirements that fit together. A lower bound that cannot be installed
is an error. Lower bounds are those of the oldest Python: newer ones have no wheels of such old versions. An environment
takes about 4 GB of disk.
"""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from wheel_test import build, install_uv

ROOT = Path(__file__).parent.parent
TESTS = (
    "commands/test_cli",
    "core/test_config",
    "deploy/test_exports",
    "report/test_report",
    "serve/test_serve",
    "tune/test_tune",
    "data/test_data",
    "deploy/test_tflite_metadata",
    "datasets/test_audio",
    "datasets/test_text",
    "compression/test_compress",
    "deploy/test_openvino",
    "doctor/test_doctor",
    "run/test_plan",
    "datasets/test_tfds",
    "datasets/test_coco",
)
"""Test files that together use every requirement of setup.cfg."""


def read_requirements() -> list[Requirement]:
    """Return all requirements of setup.cfg, those of every extra included."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    extras = declared["options.extras_require"].values()
    lines = "\n".join([declared["options"]["install_requires"], *extras]).splitlines()
    return [Requirement(line) for line in lines if line[:1].isalpha()]


def make_environment(uv: Path, folder: Path, resolution: str, interpreter: str) -> Path:
    """Install the wheel of this checkout with these versions, and return the Python of the environment."""
    python, requirements_file = folder / "env" / "bin" / "python", folder / "requirements.txt"
    requirements_file.write_text("".join(f"{need}\n" for need in read_requirements()))
    subprocess.run([uv, "venv", "-q", "--clear", "--python", interpreter, folder / "env"], check=True)
    install = [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([*install, f"--resolution={resolution}", "-r", requirements_file], check=True)
    # pip comes last: packages that are installed already would not get their lowest version.
    subprocess.run([*install, "--no-deps", build(folder), "pip"], check=True)
    return python


def find_unmet_bounds(uv: Path, python: Path) -> list[str]:
    """Return the lower bounds that differ from the installed versions."""
    output = subprocess.run([uv, "pip", "freeze", "--python", python], capture_output=True, text=True)
    versions = dict(line.split("==") for line in output.stdout.splitlines() if "==" in line)
    unmet = []
    for need in read_requirements():
        (low,) = (bound.version for bound in need.specifier if bound.operator in (">=", "=="))
        version = versions[need.name.replace("_", "-").lower()]
        if not SpecifierSet(f"=={low}.*").contains(version):
            unmet.append(f"{need}: {version} is the lowest version that can be installed")
    return unmet


def main() -> None:
    """Create the environment, check the lower bounds, and run the tests."""
    folder, kind, interpreter = Path(sys.argv[1]).resolve(), *sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    uv = install_uv(folder)
    python = make_environment(uv, folder, "lowest-direct" if kind == "lowest" else "highest", interpreter)
    if kind == "lowest" and (unmet := find_unmet_bounds(uv, python)):
        raise SystemExit("\n".join(unmet))
    tests = [f"tests/{name}.py" for name in TESTS]
    status = subprocess.run([python, "-m", "pytest", "-m", "not slow", *tests], cwd=ROOT).returncode
    shutil.rmtree(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
