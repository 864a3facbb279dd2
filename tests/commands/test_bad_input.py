"""What goes wrong on a person's own machine ends in one line that says how to mend it, and nothing is lost."""

import os
import subprocess
import sys

import pytest

from tests.helpers.commands import SMALL, command, refused, shapes, within

BROKEN = {
    "empty.png": b"",
    "text.jpg": b"this is not a picture at all, whatever its name says",
    "half.png": None,
    "bomb.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + b"\0" * 40,
}
REASONS = {
    "empty.png": "empty file",
    "text.jpg": "not a JPEG, PNG, GIF, BMP or WebP picture",
    "half.png": "truncated or corrupt PNG",
    "bomb.png": "a picture of 60000 x 60000 pixels, at most 100000000",
}


@pytest.fixture
def broken(tmp_path):
    """Drawn shapes with four files among them that nobody can read."""
    data = shapes(tmp_path / "photos", each=14)
    whole = (data / "disc" / "000.png").read_bytes()
    for name, content in BROKEN.items():
        (data / "disc" / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    return data


def test_broken_files_are_skipped_counted_and_listed(broken, tmp_path):
    """The run is done with the rest; the report says what was left out, and why."""
    flags = [
        *SMALL,
        "--frozen.epochs=0",
        "--finetune.epochs=1",
        "--exports=keras_file()",
        f"--cache.dir={tmp_path / 'cache'}",
    ]
    found = within("train", f"--data={broken}", *flags, f"--workdir={tmp_path / 'run'}")
    assert found.returncode == 0, found.stderr
    assert "4 of 46 samples cannot be read and are left out" in found.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    for name, reason in REASONS.items():
        assert name in page
        assert reason in page


def test_too_many_broken_files_fail_the_run(broken, tmp_path):
    """A folder that is mostly broken is a mistake somewhere else."""
    said = refused("train", f"--data={broken}", *SMALL, "--max_unreadable=0.05", f"--workdir={tmp_path / 'run'}")
    assert "4 of 46 samples cannot be read" in said
    assert "bomb.png: a picture of 60000 x 60000 pixels" in said
    assert "raise --max_unreadable" in said


def test_predict_says_which_files_it_cannot_read(trained, broken):
    """The readable ones are predicted all the same, and the exit status tells."""
    paths = [broken / "disc" / name for name in (*BROKEN, "000.png")]
    found = within("predict", f"--bundle={trained.workdir / 'bundle'}", *paths)
    assert found.returncode == 2
    *failed, last = found.stdout.splitlines()
    for line, reason in zip(failed, REASONS.values(), strict=True):
        assert reason in line
    assert '"label"' in last
    assert f"4 of 5 samples cannot be read; received: {paths[0]}" in found.stderr


def test_work_folder_that_cannot_be_written(trained):
    """Said before anything is read or trained."""
    assert "cannot write to the work folder; received: /proc/run" in refused(
        "train", *trained.flags, "--workdir=/proc/run"
    )


def test_work_folder_with_other_files(trained, tmp_path):
    """A run never mixes its files with somebody's."""
    (tmp_path / "thesis.txt").write_text("all my work")
    assert "holds files of something else" in refused("train", *trained.flags, f"--workdir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_full_disk(trained, tmp_path):
    """Files that cannot grow, as on a full disk, end the run in one line; nothing half-written is left."""
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv[0] = 'train'\n"
        "runpy.run_module('tfx_finetune.train', run_name='__main__')\n"
    )
    workdir = tmp_path / "run"
    arguments = [*trained.flags, f"--cache.dir={tmp_path / 'cache'}", f"--workdir={workdir}", "--finetune.epochs=1"]
    arguments += ["--exports=keras_file()"]
    # The report draws its curves with fonts that Matplotlib would otherwise index into a file of its own.
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "error: no space left for " in found.stderr
    assert "make room, then run the command again" in found.stderr
    assert not (workdir / "bundle").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    again = within("train", *arguments)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_file_that_fails_the_gate_is_named(trained, tmp_path):
    """Exit status 3; bundle and report are there, so that a person can look at what happened."""
    (tmp_path / "spoiled.py").write_text(
        "import numpy as np\n"
        "from tfx_finetune.types.components import EXPORTS\n"
        "from tfx_finetune.types.deployment import Export\n"
        "from tfx_finetune.deploy.formats import keras_file\n"
        "def write(servable, path):\n"
        "    dense = [layer for layer in servable.model.layers if 'dense' in layer.name][-1]\n"
        "    kept = dense.get_weights()\n"
        "    dense.set_weights([np.roll(weight, 1, -1) for weight in kept])\n"
        "    keras_file.write(servable, path)\n"
        "    dense.set_weights(kept)\n"
        "@EXPORTS.register\n"
        "def spoiled() -> Export:\n"
        "    '''A file whose classes are shifted by one.'''\n"
        "    return Export('spoiled', 'spoiled.keras', write, keras_file.load, tolerance=1e-4, quantized=False)\n"
    )
    flags = [
        *trained.flags,
        "--frozen.epochs=0",
        "--finetune.epochs=2",
        "--plugins=spoiled",
        "--exports=keras_file(), spoiled()",
    ]
    found = command("train", *flags, f"--workdir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path))
    assert found.returncode == 3, found.stderr
    assert "error: 1 of 2 files did not pass verification; received: spoiled differs from the model by" in found.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert "spoiled" in (tmp_path / "run" / "bundle" / "scores.json").read_text()
