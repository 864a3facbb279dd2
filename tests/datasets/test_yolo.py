"""Data sets in the format of YOLO: golden boxes by hand, what data.yaml may say, and lines that are wrong."""

import pytest

from tests.helpers.annotated_data import objects, picture, source, yolo_folder
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.yolo_file import read_settings
from tfx_finetune.ops.objects import Object

CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
LINE = "0 0.35 0.35 0.5 0.5\n"
SPARE = "1 0.5 0.5 1 1\n"
DOG = Object("dog", 0, 0, 1, 1)


def yolo(tmp_path, text):
    root = yolo_folder(tmp_path / "yolo", {"a": text})
    (root / "classes.txt").write_text("cat\ndog\n")
    return source("yolo", root)


def test_boxes_and_outlines(tmp_path):
    """Centres and sizes; of an outline the box around it."""
    found = yolo(tmp_path, SPARE + LINE + "0 0.1 0.2 0.6 0.1 0.3 0.6\n")
    assert (found.name, found.labels, found.paths, found.sizes) == ("yolo", ("cat", "dog"), ("image",), {"all": 1})
    assert objects(found) == {"a.png": [DOG, CAT, CAT]}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("line", "left", "note"),
    [
        ("0 1.0 0.75 0.5 0.5", [Object("cat", 0.75, 0.5, 1, 1)], "boxes that reach beyond their picture, clipped"),
        ("0 1.5 0.5 0.5 0.5", [], "boxes outside of their picture, left out"),
        ("0 0.5 0.5 0 0.5", [], "boxes without area, left out"),
        ("0 0.35 0.35 -0.5 0.5", [CAT], "boxes with their corners the other way round, put right"),
        ("0 nan 0.5 0.5 0.5", [], "boxes whose edges are no numbers, left out"),
        ("0 300 200 50 60", [], "boxes far outside of their picture, perhaps in pixels, left out"),
        ("2 0.5 0.5 0.5 0.5", [], "objects of an unknown class, left out"),
        ("-1 0.5 0.5 0.5 0.5", [], "objects of an unknown class, left out"),
        ("0.5 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor an outline, left out"),
        ("nan 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor an outline, left out"),
        ("cat 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor an outline, left out"),
        ("0 0.5 0.5", [], "lines that are neither a box nor an outline, left out"),
        ("0 0.1 0.1 0.6 0.1 0.3", [], "lines that are neither a box nor an outline, left out"),
        (SPARE, [], "annotations that are there twice, left out"),
    ],
)
def test_lines_that_are_wrong(tmp_path, capsys, line, left, note):
    """Mended or left out, counted, said with the file; the good ones beside them stay."""
    more = "1 0.5 0.5 0.9 0.9\n1 0.5 0.5 0.8 0.8\n"
    found = yolo(tmp_path, SPARE + more + line)
    assert [each for each in objects(found)["a.png"] if each == DOG or each.label == "cat"] == [DOG, *left]
    assert len(objects(found)["a.png"]) == 3 + len(left)
    assert [each.partition(": 1 (")[0] for each in found.notes] == [note]
    assert found.notes[0] in capsys.readouterr().err


def test_pixels_in_place_of_shares(tmp_path):
    """Told by most of the boxes, and said."""
    found = yolo(tmp_path, "0 7 3.5 10 5\n1 10 5 20 10\n")
    assert objects(found) == {"a.png": [CAT, DOG]}
    assert found.notes == ("boxes in pixels where YOLO has shares of the picture, taken as pixels: 2 (all)",)


def test_files_that_are_missing(tmp_path):
    """A picture without one, or with an empty one, has nothing in it; labels without a picture are said."""
    root = yolo_folder(tmp_path / "yolo", {"a": LINE, "b": None, "c": ""})
    (root / "labels" / "d.txt").write_text(LINE)
    (root / "labels" / "classes.txt").write_text("cat\n")
    found = source("yolo", root)
    assert objects(found) == {"a.png": [CAT], "b.png": [], "c.png": []}
    assert found.notes == (
        f"files of labels without a picture, left out: 1 ({root / 'labels' / 'd.txt'})",
        f"pictures without a file of labels, taken for empty: 1 ({root / 'images' / 'b.png'})",
    )


def test_classes_without_names(tmp_path):
    """They are numbers."""
    assert source("yolo", yolo_folder(tmp_path, {"a": "2 0.5 0.5 1 1\n"})).labels == ("0", "1", "2")


def test_splits_by_folders(tmp_path):
    """Below images/ or above it; every folder called images has its labels beside it."""
    below = yolo_folder(tmp_path / "below", {"train/a": LINE, "valid/b": LINE})
    assert source("yolo", below).sizes == {"train": 1, "val": 1}
    assert infer_source(str(below)).name == "yolo"
    for split in ("train", "test"):
        yolo_folder(tmp_path / "images" / "above" / split, {"a": LINE})
    found = source("yolo", tmp_path / "images" / "above")
    assert found.sizes == {"train": 1, "test": 1}
    assert objects(found, "test")["a.png"][0][1:] == CAT[1:]
    assert infer_source(str(tmp_path / "images" / "above")).name == "yolo"


def test_settings(tmp_path):
    """The part of YAML that such files use."""
    place = tmp_path / "data.yaml"
    place.write_text(
        "# exported\n---\npath: ../data  # it's it\ntrain: [images/a, 'images/b']\nval:\n  - x\n  - \"y # z\"\nnc: 2\n"
        "names:\n  0: cat\n  1: 'big dog'\nroboflow:\n  url: https://x.y/z\nempty:\nother: {0: a, 1: \"b, c\"}\n"
    )
    assert read_settings(place) == {
        "path": "../data",
        "train": ["images/a", "images/b"],
        "val": ["x", "y # z"],
        "nc": "2",
        "names": {"0": "cat", "1": "big dog"},
        "roboflow": {"url": "https://x.y/z"},
        "empty": "",
        "other": {"0": "a", "1": "b, c"},
    }


@pytest.mark.parametrize(
    "names",
    [
        "[cat, dog]",
        "['cat', \"dog\"]",
        "\n- cat\n- dog",
        "\n  - cat\n  - dog",
        "\n  0: cat\n  1: dog",
        "{0: cat, 1: dog}",
    ],
)
def test_names_and_splits_of_a_file(tmp_path, names):
    """Every way to write names; paths from the file, from its `path`, or, as exported, from a folder within."""
    root = yolo_folder(tmp_path, {"train/a": LINE + SPARE, "b/b": LINE})
    picture(tmp_path / "images" / "more.png")
    (tmp_path / "labels" / "more.txt").write_text(LINE)
    (tmp_path / "list.txt").write_text("images/more.png\n")
    (tmp_path / "data.yaml").write_text(
        f"path: images\ntrain: train\nval: ../images/b\ntest: list.txt\nnc: 2\nnames: {names}\n"
    )
    found = source("yolo", root)
    assert (found.sizes, found.labels) == ({"train": 1, "val": 1, "test": 1}, ("cat", "dog"))
    assert objects(found, "train") == {"a.png": [CAT, DOG]}
    assert objects(found, "test") == {"more.png": [CAT]}
    assert infer_source(str(tmp_path / "data.yaml")).name == infer_source(str(tmp_path)).name == "yolo"
    assert source("yolo", tmp_path / "data.yaml").sizes == found.sizes


def test_poses(tmp_path):
    """Points of the body stand behind the box, and are no outline."""
    root = yolo_folder(tmp_path, {"a": "0 0.35 0.35 0.5 0.5 0.9 0.9 2\n"})
    (tmp_path / "data.yaml").write_text("train: images\nkpt_shape: [1, 3]\nnames: [cat]\n")
    assert objects(source("yolo", root), "train") == {"a.png": [CAT]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [cat, cat]\n", "cannot read the names of the classes; received: "),
        ("names:\n  1: cat\n", "cannot read the names of the classes; received: "),
        ("names: 3\n", "cannot read the names of the classes; received: "),
        ("names: [cat]\ntrain: gone\n", "no such folder or file; received: "),
        ("- cat\n", "cannot read this line; received: "),
        ("names: [cat,\n dog]\n", "cannot read this line; received: "),
    ],
)
def test_settings_that_are_wrong(tmp_path, text, said):
    """One line, with the file."""
    root = yolo_folder(tmp_path, {"a": LINE})
    (root / "data.yaml").write_text(text)
    assert complaint(source, "yolo", root).startswith(said)


def test_folders_that_are_none(tmp_path):
    """Each says what such a folder should hold."""
    root = class_folder(tmp_path / "plain", cat=1, dog=1)
    said = complaint(source, "yolo", root)
    assert said.startswith(f"no labels in this folder; received: {root}; allowed: images/1.jpg and labels/1.txt")
    assert complaint(source, "yolo", tmp_path / "gone") == f"no such folder or file; received: {tmp_path / 'gone'}"
