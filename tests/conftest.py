"""Fixtures that several test files share: a small run, which is trained once for all processes of a test session."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.commands import SMALL_FLAGS, run_command, write_shapes
from tfx_finetune.core import assets

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    # Each worker and its commands get cores of their own: threads that share a core wait for each other.
    cores, num_workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(WORKER.removeprefix("gw")) :: num_workers] or cores)


def pytest_collection_finish():
    """Exempt all imported objects from garbage collection, which every conversion to TFLite triggers."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage():
    """Free the networks of a test file at its end; they are reference cycles."""
    yield
    gc.collect()


@pytest.fixture
def empty_cache(tmp_path: Path) -> Iterator[Path]:
    """Use an empty cache of downloads and derived files, and yield its folder, which does not exist yet."""
    assets.set_cache_dir(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    assets.set_cache_dir("")


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
        data: Folder of the data.
        workdir: Work folder.
        flags: Flags of the run, without the work folder.
        output: Standard error of the command.
    """

    data: Path
    workdir: Path
    flags: tuple[str, ...]
    output: str


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], str | None]], tuple[Path, str]]:
    """Return the function `make_once(name, make)`, which fills a folder once and returns it with the result of `make`.

    All workers share the folder and must not change it. The first worker that needs it calls `make(folder)`; the others
    wait.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get_folder(name: str, make: Callable[[Path], str | None]) -> tuple[Path, str]:
        folder, result_file = base / name, base / f"{name}.txt"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result_file.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                result_file.write_text(make(folder) or "")
        return folder, result_file.read_text()

    return get_folder


@pytest.fixture(scope="session")
def trained_run(make_once) -> TrainedRun:
    """A small network that the command trains on images of shapes."""

    def get_flags(root: Path) -> tuple[str, ...]:
        return (f"--data={root / 'shapes'}", f"--cache.dir={root / 'cache'}", *SMALL_FLAGS)

    def train(root: Path) -> str:
        write_shapes(root / "shapes")
        result = run_command("train", *get_flags(root), f"--workdir={root / 'run'}")
        assert result.returncode == 0, result.stderr
        return result.stderr

    root, output = make_once("trained", train)
    return TrainedRun(root / "shapes", root / "run", get_flags(root), output)
