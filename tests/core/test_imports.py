"""Limits of the package: commands start without TensorFlow, and files stay short."""

import subprocess
import sys
from pathlib import Path

import pytest

from tfx_finetune.core.command import COMMANDS, module_of

PACKAGE = Path(__file__).parent.parent.parent / "tfx_finetune"
FILES = sorted(PACKAGE.rglob("*.py"))
SLOW_PACKAGES = {"tensorflow", "keras", "sklearn"}


@pytest.mark.parametrize("module", ["tfx_finetune", *map(module_of, COMMANDS)])
def test_importing_a_command_imports_no_slow_package(module):
    """--help does not wait for TensorFlow, Keras and scikit-learn."""
    code = f"import sys, {module}; print(*sorted({SLOW_PACKAGES!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_command_has_a_module():
    """Every command can be run by `python -m`, and no module with a function `main` is missing from the list."""
    names = {path.stem for path in PACKAGE.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")}
    names |= {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path):
    """A file has at most 300 lines; a longer one is split."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_public_names():
    """Every name of `__all__` is imported when it is used; other names raise AttributeError."""
    # A new process, as an import of the module tfx_finetune.train by another test binds the name `train` to it.
    code = (
        "import tfx_finetune as tfx; assert all(getattr(tfx, name).__name__ == name for name in tfx.__all__); tfx.Train"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'Train'" in result.stderr.splitlines()[-1]
