"""What several test files share: one small run, done once."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import SMALL, command, shapes


class Trained(NamedTuple):
    """A finished run: its data, its work folder, and what the command printed."""

    data: Path
    workdir: Path
    flags: tuple[str, ...]
    output: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """A small network trained by the command on drawn shapes."""
    root = tmp_path_factory.mktemp("trained")
    data = shapes(root / "shapes")
    flags = (f"--data={data}", f"--cache.dir={root / 'cache'}", *SMALL)
    found = command("train", *flags, f"--workdir={root / 'run'}")
    assert found.returncode == 0, found.stderr
    return Trained(data, root / "run", flags, found.stderr)
