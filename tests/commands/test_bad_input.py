"""Unreadable files, unusable work folders and a full disk end in one line that says what to do."""

import os
import subprocess
import sys

import pytest

from tests.helpers.commands import SMALL_FLAGS, get_error, run_command, run_in_process, write_shapes

BROKEN = {
    "empty.png": b"",
    "text.jpg": b"this is not a picture at all, whatever its name says",
    "half.png": None,
    "bomb.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + b"\0" * 40,
}
REASONS = {
    "empty.png": "empty file",
    "text.jpg": "not a JPEG, PNG, GIF, BMP or WebP image",
    "half.png": "truncated or corrupt PNG",
    "bomb.png": "image of 60000 x 60000 pixels, at most 100000000",
}


@pytest.fixture
def broken_data(tmp_path):
    """Images of shapes, and four unreadable files."""
    data = write_shapes(tmp_path / "photos", images_per_class=14)
    image = (data / "disc" / "000.png").read_bytes()
    for name, content in BROKEN.items():
        (data / "disc" / name).write_bytes(image[: len(image) // 2] if content is None else content)
    return data


def test_unreadable_files_are_left_out_and_listed(broken_data, tmp_path):
    """The run uses the other files; the report lists the unreadable files with the reasons."""
    flags = [
        *SMALL_FLAGS,
        "--frozen.epochs=0",
        "--finetune.epochs=1",
        "--exports=keras_file()",
        f"--cache.dir={tmp_path / 'cache'}",
    ]
    result = run_in_process("train", f"--data={broken_data}", *flags, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "4 of 46 samples cannot be read and are left out" in result.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    for name, reason in REASONS.items():
        assert name in page
        assert reason in page


def test_too_many_unreadable_files_are_an_error(broken_data, tmp_path):
    """Most unreadable files of a folder have one cause, which the user can correct."""
    flags = (*SMALL_FLAGS, "--max_unreadable=0.05", f"--workdir={tmp_path / 'run'}")
    line = get_error("train", f"--data={broken_data}", *flags)
    assert "4 of 46 samples cannot be read" in line
    assert "bomb.png: image of 60000 x 60000 pixels" in line
    assert "raise --max_unreadable" in line


def test_predict_names_unreadable_files(trained_run, broken_data):
    """The readable files are predicted, and the exit status is 2."""
    paths = [broken_data / "disc" / name for name in (*BROKEN, "000.png")]
    result = run_in_process("predict", f"--bundle={trained_run.workdir / 'bundle'}", *paths)
    assert result.returncode == 2
    *error_lines, last = result.stdout.splitlines()
    for line, reason in zip(error_lines, REASONS.values(), strict=True):
        assert reason in line
    assert '"label"' in last
    assert f"error: 4 of 5 samples cannot be read: {paths[0]}: empty file; " in result.stderr


def test_work_folder_that_cannot_be_written(trained_run):
    """The error comes before data is read."""
    line = get_error("train", *trained_run.flags, "--workdir=/proc/run")
    assert line.startswith("error: The work folder cannot be written: /proc/run ")


def test_work_folder_with_other_files(trained_run, tmp_path):
    """A run does not write into a folder with other files."""
    (tmp_path / "thesis.txt").write_text("text")
    assert f"The work folder holds files of another program: {tmp_path}. " in get_error(
        "train", *trained_run.flags, f"--workdir={tmp_path}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_full_disk(trained_run, tmp_path):
    """A limit of the file size, as on a full disk, ends the run in one line and leaves no incomplete file."""
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv[0] = 'train'\n"
        "runpy.run_module('tfx_finetune.train', run_name='__main__')\n"
    )
    workdir = tmp_path / "run"
    arguments = [*trained_run.flags, f"--cache.dir={tmp_path / 'cache'}", f"--workdir={workdir}", "--finetune.epochs=1"]
    arguments += ["--exports=keras_file()"]
    # Matplotlib writes an index of fonts when the report plots its curves.
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "error: The disk has no space left for " in result.stderr
    assert "Free some space, then run the command again." in result.stderr
    assert not (workdir / "bundle").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    result = run_in_process("train", *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_file_that_fails_verification_is_named(trained_run, tmp_path):
    """The exit status is 3; bundle and report are written, so that the user can find the cause."""
    (tmp_path / "spoiled.py").write_text(
        "import numpy as np\n"
        "from tfx_finetune.types.components import EXPORTS\n"
        "from tfx_finetune.types.deployment import Export\n"
        "from tfx_finetune.deploy.formats import keras_file\n"
        "def write(servable, path):\n"
        "    dense = [layer for layer in servable.model.layers if 'dense' in layer.name][-1]\n"
        "    weights = dense.get_weights()\n"
        "    dense.set_weights([np.roll(weight, 1, -1) for weight in weights])\n"
        "    keras_file.write(servable, path)\n"
        "    dense.set_weights(weights)\n"
        "@EXPORTS.register\n"
        "def spoiled() -> Export:\n"
        "    '''A file whose classes are shifted by one.'''\n"
        "    return Export('spoiled', 'spoiled.keras', write, keras_file.load, tolerance=1e-4, quantized=False)\n"
    )
    flags = [
        *trained_run.flags,
        "--frozen.epochs=0",
        "--finetune.epochs=2",
        "--plugins=spoiled",
        "--exports=keras_file(), spoiled()",
    ]
    result = run_command("train", *flags, f"--workdir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path))
    assert result.returncode == 3, result.stderr
    assert "error: 1 of 2 files did not pass verification: spoiled differs from the model by" in result.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert "spoiled" in (tmp_path / "run" / "bundle" / "scores.json").read_text()
