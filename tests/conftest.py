"""What several test files share: one small run, done once for all that run tests at the same time."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.commands import SMALL, command, shapes

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    # A worker has cores of its own, and the commands that it runs: threads of several on one core wait for each other.
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(WORKER.removeprefix("gw")) :: workers] or cores)


def pytest_collection_finish():
    """Takes all that was imported out of garbage collection, which every conversion to TFLite asks for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """Networks hold themselves by cycles: those of a file's tests go when the file is done."""
    yield
    gc.collect()


class Trained(NamedTuple):
    """A finished run: its data, its work folder, and what the command printed."""

    data: Path
    workdir: Path
    flags: tuple[str, ...]
    output: str


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], str | None]], tuple[Path, str]]:
    """Makes a folder that every worker reads and none changes: `once(name, make)` gives it, and what `make` returned.

    The first worker that asks has it made; others wait for that.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def found(name: str, make: Callable[[Path], str | None]) -> tuple[Path, str]:
        folder, said = base / name, base / f"{name}.txt"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not said.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                said.write_text(make(folder) or "")
        return folder, said.read_text()

    return found


@pytest.fixture(scope="session")
def trained(once) -> Trained:
    """A small network trained by the command on drawn shapes."""

    def flags(root: Path) -> tuple[str, ...]:
        return (f"--data={root / 'shapes'}", f"--cache.dir={root / 'cache'}", *SMALL)

    def make(root: Path) -> str:
        shapes(root / "shapes")
        found = command("train", *flags(root), f"--workdir={root / 'run'}")
        assert found.returncode == 0, found.stderr
        return found.stderr

    root, output = once("trained", make)
    return Trained(root / "shapes", root / "run", flags(root), output)
