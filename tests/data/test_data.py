"""The command data as a person runs it."""

import csv
import hashlib
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.commands import command, refused, shapes, within
from tests.helpers.small_data import idx_folder, load, sizes, sounds
from tfx_finetune.core import config
from tfx_finetune.core.options import replace_options
from tfx_finetune.core.config import Run
from tfx_finetune.run.plan import check

TOWER = "--backbone=convnet(size=24, channels=3)"


def findings(folder):
    """`(kind, name of the file, name of the other one)` of every row of findings.csv."""
    with (folder / "findings.csv").open(newline="") as file:
        return [(row["finding"], Path(row["file"]).name, Path(row["other"]).name) for row in csv.DictReader(file)]


def content(folder):
    """Everything below a folder."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Drawn shapes split in two, with one of everything that can be wrong."""
    root = tmp_path_factory.mktemp("planted")
    shapes(root / "train")
    shapes(root / "test", each=10, seed=1)
    train, test = root / "train", root / "test"
    shutil.copy(train / "disc" / "000.png", train / "disc" / "copy.png")
    shutil.copy(test / "disc" / "002.png", train / "disc" / "leak.png")
    # One picture in two formats is one content.
    Image.open(train / "disc" / "004.png").save(train / "disc" / "same.bmp")
    shutil.copy(train / "bar" / "001.jpg", train / "square" / "conflict.jpg")
    (train / "bar" / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (40, 32), "white").save(train / "bar" / "blank.png")
    Image.open(train / "square" / "006.png").resize((400, 320)).save(train / "square" / "large.png")
    return root


@pytest.fixture(scope="module")
def cared(planted, tmp_path_factory):
    """The command's folder, and whether the data stayed as they were."""
    folder = tmp_path_factory.mktemp("cared") / "out"
    before = content(planted)
    cache = f"--cache.dir={folder.parent / 'cache'}"
    found = command("data", f"--data={planted}", f"--workdir={folder}", "--fix", TOWER, cache)
    assert found.returncode == 0, found.stderr
    assert content(planted) == before
    assert f"--data={folder / 'cleaned.csv'}" in found.stderr
    assert "Warning" not in found.stderr
    return folder


@pytest.mark.slow
def test_what_was_planted_is_found(cared):
    """Each once, with the file that it is a copy of."""
    found = findings(cared)
    assert {
        ("copy", "copy.png", "000.png"),
        ("leak", "leak.png", "002.png"),
        ("copy", "same.bmp", "004.png"),
        ("conflict", "conflict.jpg", "001.jpg"),
        ("unreadable", "broken.png", ""),
        ("blank", "blank.png", ""),
        ("odd size", "large.png", ""),
        ("near copy", "large.png", "006.png"),
    } <= set(found)
    assert [row for row in found if row[0] == "unreadable"] == [("unreadable", "broken.png", "")]


@pytest.mark.slow
def test_the_page_shows_it(cared):
    """Findings with pictures, counts, statistics, and nothing that is loaded from elsewhere."""
    page = (cared / "data.html").read_text()
    for text in ["Standardization", "Mean, 0 to 255", "half, by mutual information", "broken.png", "leak.png"]:
        assert text in page
    assert page.count("data:image/jpeg;base64") > 10
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_the_cleaned_table_can_be_trained_on(cared):
    """It has the data's splits, and lacks what cannot be used, copies, leaks and contradictions."""
    check(replace_options(Run(data=str(cared / "cleaned.csv")), {}))
    loaded = load(cared / "cleaned.csv")
    names = {Path(file).name for file in loaded.table.file}
    assert not names & {"broken.png", "copy.png", "leak.png", "same.bmp", "conflict.jpg"}
    assert "large.png" in names
    # Of the drawn ones one is gone, the other side of the contradiction; what looks alike across the splits may be.
    assert sizes(loaded)["test"] == 30
    assert loaded.table.errors == []
    group = dict(zip(loaded.table.file, loaded.table.columns["group"], strict=True))
    (large,) = (name for name in group if name.endswith("large.png"))
    assert group[large] == group[large.replace("large", "006")] != ""


def test_pixels_become_files(tmp_path):
    """Pictures that lie in no file of their own are written beside the table."""
    idx_folder(tmp_path / "digits")
    found = within("data", f"--data={tmp_path / 'digits'}", f"--workdir={tmp_path / 'out'}", "--fix", "--backbone=")
    assert found.returncode == 0, found.stderr
    loaded = load(tmp_path / "out" / "cleaned.csv")
    assert len(loaded.table.file) == len(list((tmp_path / "out" / "cleaned").iterdir())) > 0
    assert loaded.table.errors == []
    assert "no backbone: labels, outliers and features were not judged" in (tmp_path / "out" / "data.html").read_text()


def test_sounds(tmp_path):
    """A copy in another format, a quieter one, and silence."""
    soundfile = pytest.importorskip("soundfile")
    sounds(tmp_path / "in", low=8, high=8)
    place = tmp_path / "in" / "low"
    samples, rate = soundfile.read(place / "00.wav", dtype="int16")
    soundfile.write(place / "same.flac", samples, rate)
    soundfile.write(place / "quiet.wav", samples // 3, rate)
    soundfile.write(place / "silence.wav", samples * 0, rate)
    found = within("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", "--backbone=")
    assert found.returncode == 0, found.stderr
    assert {
        ("copy", "same.flac", "00.wav"),
        ("near copy", "quiet.wav", "00.wav"),
        ("blank", "silence.wav", ""),
    } <= set(findings(tmp_path / "out"))


def test_texts(tmp_path):
    """The same words in capitals are a copy; the cleaned table has the texts themselves."""
    lines = [f"number {at} is one more than number {at - 1} of these {at * 7} texts,{'ab'[at % 2]}" for at in range(20)]
    lines.append(f"{lines[3].split(',')[0].upper()}!,b")
    lines.append("a text without a label,")
    (tmp_path / "in.csv").write_text("\n".join(["text,label", *lines]))
    found = within("data", f"--data={tmp_path / 'in.csv'}", f"--workdir={tmp_path / 'out'}", "--backbone=", "--fix")
    assert found.returncode == 0, found.stderr
    kinds = [kind for kind, *_ in findings(tmp_path / "out")]
    assert kinds.count("copy") == kinds.count("unlabelled") == 1
    assert (tmp_path / "out" / "cleaned.csv").read_text().count("\n") == 21


def test_without_cleanlab(tmp_path, monkeypatch):
    """Everything but wrong labels is found all the same, and the page says what to install."""
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    shapes(tmp_path / "in", each=12)
    found = within("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", TOWER)
    assert found.returncode == 0, found.stderr
    page = (tmp_path / "out" / "data.html").read_text()
    assert "pip install &#39;tfx_finetune[data]&#39;" in page
    assert "by L1" in page


def test_one_class_is_a_finding(tmp_path):
    """It can be looked at all the same."""
    shapes(tmp_path / "in", each=6)
    for name in ("bar", "disc"):
        shutil.rmtree(tmp_path / "in" / name)
    found = within("data", f"--data={tmp_path / 'in'}", f"--workdir={tmp_path / 'out'}", TOWER)
    assert found.returncode == 0, found.stderr
    assert "one class" in {kind for kind, *_ in findings(tmp_path / "out")}
    assert "labels were not judged" in (tmp_path / "out" / "data.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no data given; say --data=FOLDER"),
        (["--data=/nowhere/photos"], "no such folder or file; received: /nowhere/photos"),
        (
            ["--data=.", "--near_duplicate_threshold=2"],
            "--near_duplicate_threshold is out of range; received: 2.0; allowed: 0 to 1",
        ),
        (["--data=.", "--fixx"], "did you mean --fix?"),
        (["--data=.", "--backbone=a=convnet(), b=convnet()"], "data are looked after one tower at a time"),
        (["--data=.", "--backbone=convnett()"], "did you mean convnet"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message):
    """What is wrong, what was received, what to do; exit status 2."""
    assert message in refused("data", *arguments)


def test_nothing_to_look_at(tmp_path):
    """A folder without pictures, and one of which none can be read."""
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "no pictures, sounds or texts in this folder" in refused("data", f"--data={tmp_path / 'empty'}")
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "cat" / "a.png").write_bytes(b"nothing")
    assert "no sample can be read" in refused("data", f"--data={tmp_path / 'broken'}", run=command)
