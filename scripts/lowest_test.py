"""The tests with the lowest version of everything that setup.cfg allows, in an environment of its own.

    python scripts/lowest_test.py build/lowest lowest python3.11         (make test-lowest PYTHON=python3.11)
    python scripts/lowest_test.py build/newest newest python3.13         (make test-newest PYTHON=python3.13)

uv takes, of what is asked for by name, the lowest or newest versions that go together. A lower bound that no version
meets, or below which something else does not go, does not hold: the first error. Bounds are those of the oldest Python:
newer ones have no wheels that old. Each takes some 4 GB of disk.
"""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from wheel_test import build, installer

ROOT = Path(__file__).parent.parent
TESTS = (
    "test_cli",
    "test_config",
    "test_exports",
    "test_report",
    "test_serve",
    "test_tune",
    "test_data",
    "test_metadata",
    "test_audio",
    "test_text",
    "test_compress",
    "test_openvino",
    "test_doctor",
    "test_plan",
    "test_tfds",
    "test_coco",
)
"""Test files that together use every package that setup.cfg asks for."""


def requirements() -> list[Requirement]:
    """All that setup.cfg asks for, every extra included."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    extras = declared["options.extras_require"].values()
    lines = "\n".join([declared["options"]["install_requires"], *extras]).splitlines()
    return [Requirement(line) for line in lines if line[:1].isalpha()]


def environment(uv: Path, folder: Path, resolution: str, interpreter: str) -> Path:
    """Installs the wheel of this checkout with those versions; the environment's Python."""
    python, wanted = folder / "env" / "bin" / "python", folder / "requirements.txt"
    wanted.write_text("".join(f"{need}\n" for need in requirements()))
    subprocess.run([uv, "venv", "-q", "--clear", "--python", interpreter, folder / "env"], check=True)
    install = [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([*install, f"--resolution={resolution}", "-r", wanted], check=True)
    # Only now pip: what it may bring with it would count as there already, whatever the lowest version is.
    subprocess.run([*install, "--no-deps", build(folder), "pip"], check=True)
    return python


def unheld(uv: Path, python: Path) -> list[str]:
    """The lower bounds that are not what was installed."""
    said = subprocess.run([uv, "pip", "freeze", "--python", python], capture_output=True, text=True)
    versions = dict(line.split("==") for line in said.stdout.splitlines() if "==" in line)
    found = []
    for need in requirements():
        (low,) = (bound.version for bound in need.specifier if bound.operator in (">=", "=="))
        version = versions[need.name.replace("_", "-").lower()]
        if not SpecifierSet(f"=={low}.*").contains(version):
            found.append(f"{need}: {version} is the lowest that can be had")
    return found


def main() -> None:
    """Installs, holds the bounds, and runs the tests."""
    folder, kind, interpreter = Path(sys.argv[1]).resolve(), *sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    uv = installer(folder)
    python = environment(uv, folder, "lowest-direct" if kind == "lowest" else "highest", interpreter)
    if kind == "lowest" and (found := unheld(uv, python)):
        raise SystemExit("\n".join(found))
    tests = [f"tests/{name}.py" for name in TESTS]
    status = subprocess.run([python, "-m", "pytest", "-m", "not slow", *tests], cwd=ROOT).returncode
    shutil.rmtree(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
