"""Runs the commands of the package, and writes a folder of images that a small network learns to classify."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tfx_finetune.core import assets
from tfx_finetune.core.command import module_of

SHAPE_NAMES = ("bar", "disc", "square")
SMALL_FLAGS = (
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


def write_shapes(root: Path, images_per_class: int = 40, seed: int = 0) -> Path:
    """Write a folder with one sub-folder per shape, and return it; positions and colors are random.

    Args:
        root: Folder to write.
        images_per_class: Number of images of each shape, in turn PNG and JPEG.
        seed: Seed of positions and colors.
    """
    rng = np.random.default_rng(seed)
    for name in SHAPE_NAMES:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(images_per_class):
            draw_shape(name, rng).save(root / name / f"{number:03}.{('png', 'jpg')[number % 2]}")
    return root


def draw_shape(name: str, rng: np.random.Generator) -> Image.Image:
    """Return an image of 40 x 32 pixels with one shape on a light background."""
    image = Image.new("RGB", (40, 32), tuple(int(v) for v in rng.integers(160, 256, 3)))
    draw, color = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(0, 110, 3))
    x, y, r = (int(v) for v in rng.integers((12, 10, 6), (28, 22, 10)))
    if name == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif name == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), outline=color, width=3)
    else:
        draw.rectangle((x - 2, 0, x + 2, 31), fill=color)
    return image


def run_command(name: str, *arguments: object, timeout: int = 900, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m tfx_finetune.<name>` in a process of its own, and return its exit status and its output as text.

    Args:
        name: Name of the command.
        *arguments: Command line after the name.
        timeout: Seconds after which the process is killed.
        **environment: Environment variables, in addition to those of this process.
    """
    return subprocess.run(
        [sys.executable, "-m", f"tfx_finetune.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )


def run_in_process(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run the function `main` of a command in this process, which has imported TensorFlow already."""
    module, status = importlib.import_module(module_of(name)), 0
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            module.main()
        except SystemExit as end:
            status = end.code
        finally:
            assets.set_cache_dir("")  # --cache.dir holds for one command
    return subprocess.CompletedProcess(sys.argv, status, output.getvalue(), errors.getvalue())


def check_errors_before_writing(cases: Mapping[tuple[str, ...], str], workdir: Path, *flags: object) -> None:
    """Check that `train` ends with an error and does not create the work folder.

    Args:
        cases: Flags of each case, and a part of its error line.
        workdir: Work folder of the command.
        *flags: Flags of all cases.
    """
    for case_flags, message in cases.items():
        line = get_error("train", *flags, *case_flags, f"--workdir={workdir}")
        assert message in line, line
        assert not workdir.exists()


def get_error(name: str, *arguments: object, run: Callable = run_in_process) -> str:
    """Check that a command ends with exit status 2 and without a traceback, and return its error line.

    Args:
        name: Name of the command.
        *arguments: Command line after the name.
        run: Function that runs the command: `run_in_process` or `run_command`.
    """
    result = run(name, *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    *_, line = result.stderr.strip().splitlines()
    assert line.startswith("error: "), result.stderr
    return line
