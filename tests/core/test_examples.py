"""Examples in docstrings: all modules with `>>>` run as doctests."""

import doctest
import importlib
import os
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "tfx_finetune"


def list_modules():
    """Return the names of all modules whose source has `>>>`."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")]
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return [".".join(names[:-1] if names[-1] == "__init__" else names) for names in parts]


@pytest.mark.parametrize("name", list_modules())
def test_examples_run(name):
    """All examples of a module give the printed results; a module without its optional package is skipped."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CI") or (error.name or "").startswith("tfx_finetune"):
            raise
        pytest.skip(f"{name} needs {error.name}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
