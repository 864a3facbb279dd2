"""Runs the package's commands as a person does, on pictures that a small network learns."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tfx_finetune.core import assets

KINDS = ("bar", "disc", "square")
SMALL = (
    "--backbone=convnet(size=24, channels=3, widths=(8, 16, 32))",
    "--augment=flip()",
    "--frozen.epochs=1",
    "--frozen.augmented_views=1",
    "--finetune.unfreeze=all",
    "--finetune.epochs=12",
    "--batch_size=8",
    "--finetune.learning_rate=0.01",
)
"""Flags of a run that takes seconds."""


def shapes(root: Path, each: int = 40, seed: int = 0) -> Path:
    """Writes a folder with a sub-folder for each kind of shape, drawn at random places in random colours."""
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            shape(kind, rng).save(root / kind / f"{number:03}.{('png', 'jpg')[number % 2]}")
    return root


def shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """Draws one shape."""
    picture = Image.new("RGB", (40, 32), tuple(int(v) for v in rng.integers(160, 256, 3)))
    draw, colour = ImageDraw.Draw(picture), tuple(int(v) for v in rng.integers(0, 110, 3))
    x, y, r = (int(v) for v in rng.integers((12, 10, 6), (28, 22, 10)))
    if kind == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=3)
    else:
        draw.rectangle((x - 2, 0, x + 2, 31), fill=colour)
    return picture


def command(name: str, *arguments: object, timeout: int = 900, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m tfx_finetune.<name>` in a process of its own; the result's output is text."""
    return subprocess.run(
        [sys.executable, "-m", f"tfx_finetune.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )


def within(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a command's `main` in this process, which has TensorFlow already."""
    module, status = importlib.import_module(f"tfx_finetune.{name}"), 0
    if hasattr(module, "__path__"):  # a package, whose command is its `__main__`
        module = importlib.import_module(f"tfx_finetune.{name}.__main__")
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            module.main()
        except SystemExit as end:
            status = end.code
        finally:
            assets.set_cache_dir("")  # what `--cache.dir` sets is for this command alone
    return subprocess.CompletedProcess(sys.argv, status, output.getvalue(), errors.getvalue())


def refused_before_writing(cases: dict[tuple[str, ...], str], workdir: Path, *flags: object) -> None:
    """Holds that `train`, with the flags of each case, ends with its message and has not made the work folder."""
    for given, message in cases.items():
        said = refused("train", *flags, *given, f"--workdir={workdir}")
        assert message in said, said
        assert not workdir.exists()


def refused(name: str, *arguments: object, run: Callable = within) -> str:
    """The one line that a command ends with where the person who runs it has to mend something."""
    found = run(name, *arguments)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    *_, last = found.stderr.strip().splitlines()
    assert last.startswith("error: "), found.stderr
    return last
