"""End-to-end tests of the `data` command."""

import csv
import hashlib
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.commands import get_error, run_command, run_in_process, write_shapes
from tests.helpers.small_data import idx_folder, load, sizes, sounds
from tfx_finetune.core.config import Run
from tfx_finetune.core.options import replace_options
from tfx_finetune.run.plan import check

TOWER = "--backbone=convnet(size=24, channels=3)"


def read_issues(folder):
    """`(kind, file name, other file name)` of every row of issues.csv."""
    with (folder / "issues.csv").open(newline="") as file:
        return [(row["kind"], Path(row["file"]).name, Path(row["other_file"]).name) for row in csv.DictReader(file)]


def hash_files(folder):
    """The hash of every file in a folder by path."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Drawn shapes in two splits, with one issue of each kind."""
    root = tmp_path_factory.mktemp("planted")
    write_shapes(root / "train")
    write_shapes(root / "test", images_per_class=10, seed=1)
    train, test = root / "train", root / "test"
    shutil.copy(train / "disc" / "000.png", train / "disc" / "copy.png")
    shutil.copy(test / "disc" / "002.png", train / "disc" / "leak.png")
    # The same pixels in another file format.
    Image.open(train / "disc" / "004.png").save(train / "disc" / "same.bmp")
    shutil.copy(train / "bar" / "001.jpg", train / "square" / "label_conflict.jpg")
    (train / "bar" / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (40, 32), "white").save(train / "bar" / "blank.png")
    Image.open(train / "square" / "006.png").resize((400, 320)).save(train / "square" / "large.png")
    return root


@pytest.fixture(scope="module")
def audit_folder(planted, tmp_path_factory):
    """The work folder of the command, which leaves the data set unchanged."""
    folder = tmp_path_factory.mktemp("audit") / "out"
    hashes = hash_files(planted)
    cache = f"--cache.dir={folder.parent / 'cache'}"
    process = run_command("data", f"--data={planted}", f"--workdir={folder}", "--fix", TOWER, cache)
    assert process.returncode == 0, process.stderr
    assert hash_files(planted) == hashes
    assert f"--data={folder / 'cleaned.csv'}" in process.stderr
    assert "Warning" not in process.stderr
    return folder


@pytest.mark.slow
def test_planted_issues_are_listed(audit_folder):
    """Each issue is listed once, with the file that it duplicates."""
    issues = read_issues(audit_folder)
    assert {
        ("duplicate", "copy.png", "000.png"),
        ("leakage", "leak.png", "002.png"),
        ("duplicate", "same.bmp", "004.png"),
        ("label_conflict", "label_conflict.jpg", "001.jpg"),
        ("unreadable", "broken.png", ""),
        ("blank", "blank.png", ""),
        ("odd_size", "large.png", ""),
        ("near_duplicate", "large.png", "006.png"),
    } <= set(issues)
    assert [issue for issue in issues if issue[0] == "unreadable"] == [("unreadable", "broken.png", "")]


@pytest.mark.slow
def test_page_displays_issues_and_statistics(audit_folder):
    """The page contains previews, counts and statistics, and loads nothing from the network."""
    page = (audit_folder / "data.html").read_text()
    for text in ["Standardization", "Mean, 0 to 255", "top half by mutual information", "broken.png", "leak.png"]:
        assert text in page
    assert page.count("data:image/jpeg;base64") > 10
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_cleaned_table_can_be_used_for_training(audit_folder):
    """The table has the splits of the data, without unreadable files, duplicates, leakage and label conflicts."""
    check(replace_options(Run(data=str(audit_folder / "cleaned.csv")), {}))
    data = load(audit_folder / "cleaned.csv")
    names = {Path(file).name for file in data.table.file}
    assert not names & {"broken.png", "copy.png", "leak.png", "same.bmp", "label_conflict.jpg"}
    assert "large.png" in names
    # The other sample of the label conflict is dropped as well; similar shapes of two splits may be.
    assert sizes(data)["test"] == 30
    assert data.table.errors == []
    group = dict(zip(data.table.file, data.table.columns["group"], strict=True))
    (large,) = (name for name in group if name.endswith("large.png"))
    assert group[large] == group[large.replace("large", "006")] != ""


def test_pixels_are_written_as_files(tmp_path):
    """Images of an IDX file are written to a folder with the name of the table."""
    idx_folder(tmp_path / "digits")
    process = run_in_process(
        "data", f"--data={tmp_path / 'digits'}", f"--workdir={tmp_path / 'out'}", "--fix", "--backbone="
    )
    assert process.returncode == 0, process.stderr
    data = load(tmp_path / "out" / "cleaned.csv")
    assert len(data.table.file) == len(list((tmp_path / "out" / "cleaned").iterdir())) > 0
    assert data.table.errors == []
    assert (
        "No backbone: label errors, outliers and features were not checked."
        in (tmp_path / "out" / "data.html").read_text()
    )


def test_audio_issues(tmp_path):
    """A duplicate in another file format, a quieter near-duplicate, and silence."""
    soundfile = pytest.importorskip("soundfile")
    sounds(tmp_path / "in", low=8, high=8)
    folder = tmp_path / "in" / "low"
    samples, rate = soundfile.read(folder / "00.wav", dtype="int16")
    soundfile.write(folder / "same.flac", samples, rate)
    soundfile.write(folder / "quiet.wav", samples // 3, rate)
    soundfile.write(folder / "silence.wav", samples * 0, rate)
    process = run_in_process("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", "--backbone=")
    assert process.returncode == 0, process.stderr
    assert {
        ("duplicate", "same.flac", "00.wav"),
        ("near_duplicate", "quiet.wav", "00.wav"),
        ("blank", "silence.wav", ""),
    } <= set(read_issues(tmp_path / "out"))


def test_text_issues(tmp_path):
    """The same words in upper case are a duplicate; the cleaned table contains the texts."""
    lines = [f"number {n} is one more than number {n - 1} of these {n * 7} texts,{'ab'[n % 2]}" for n in range(20)]
    lines.append(f"{lines[3].split(',')[0].upper()}!,b")
    lines.append("a text without a label,")
    (tmp_path / "in.csv").write_text("\n".join(["text,label", *lines]))
    process = run_in_process(
        "data", f"--data={tmp_path / 'in.csv'}", f"--workdir={tmp_path / 'out'}", "--backbone=", "--fix"
    )
    assert process.returncode == 0, process.stderr
    kinds = [kind for kind, *_ in read_issues(tmp_path / "out")]
    assert kinds.count("duplicate") == kinds.count("unlabeled") == 1
    assert (tmp_path / "out" / "cleaned.csv").read_text().count("\n") == 21


def test_without_cleanlab_only_label_errors_are_missing(tmp_path, monkeypatch):
    """The page names the package to install."""
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    write_shapes(tmp_path / "in", images_per_class=12)
    process = run_in_process("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", TOWER)
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "out" / "data.html").read_text()
    assert "pip install &#39;tfx_finetune[data]&#39;" in page
    assert "L1-regularized" in page


def test_single_class_is_an_issue(tmp_path):
    """The audit of a data set with one class succeeds."""
    write_shapes(tmp_path / "in", images_per_class=6)
    for name in ("bar", "disc"):
        shutil.rmtree(tmp_path / "in" / name)
    process = run_in_process("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", TOWER)
    assert process.returncode == 0, process.stderr
    assert "single_class" in {kind for kind, *_ in read_issues(tmp_path / "out")}
    assert "label errors and features were not checked" in (tmp_path / "out" / "data.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing. Write --data=FOLDER, a folder with one sub-folder per class."),
        (["--data=/nowhere/photos"], "No such file or folder: /nowhere/photos."),
        (
            ["--data=.", "--near_duplicate_threshold=2"],
            "--near_duplicate_threshold is out of range: 2.0. Expected: 0 to 1.",
        ),
        (["--data=.", "--fixx"], "Did you mean --fix?"),
        (["--data=.", "--backbone=a=convnet(), b=convnet()"], "`data` checks one modality at a time"),
        (["--data=.", "--backbone=convnett()"], "Did you mean convnet?"),
    ],
)
def test_invalid_options_print_one_line(arguments, message):
    """The error names the problem, the value and the solution; the exit status is 2."""
    assert message in get_error("data", *arguments)


def test_data_set_without_readable_samples(tmp_path):
    """A folder without files, and a folder without readable files."""
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "The folder has no images, audio files or text files" in get_error("data", f"--data={tmp_path / 'empty'}")
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "cat" / "a.png").write_bytes(b"nothing")
    assert "No sample can be read" in get_error("data", f"--data={tmp_path / 'broken'}", run=run_command)
