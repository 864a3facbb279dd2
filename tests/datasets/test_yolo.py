"""YOLO's format: golden boxes by hand, settings of data.yaml, and invalid lines."""

import pytest

from tests.helpers.annotated_data import build_source, read_objects, write_image, write_yolo_folder
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.yolo_file import read_settings
from tfx_finetune.ops.objects import Object

CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
LINE = "0 0.35 0.35 0.5 0.5\n"
SPARE = "1 0.5 0.5 1 1\n"
DOG = Object("dog", 0, 0, 1, 1)


def yolo(tmp_path, text):
    root = write_yolo_folder(tmp_path / "yolo", {"a": text})
    (root / "classes.txt").write_text("cat\ndog\n")
    return build_source("yolo", root)


def test_boxes_and_polygons(tmp_path):
    """A box has a center and a size; a polygon becomes its bounding box."""
    source = yolo(tmp_path, SPARE + LINE + "0 0.1 0.2 0.6 0.1 0.3 0.6\n")
    assert (source.name, source.labels, source.paths, source.sizes) == ("yolo", ("cat", "dog"), ("image",), {"all": 1})
    assert read_objects(source) == {"a.png": [DOG, CAT, CAT]}
    assert source.warnings == ()


@pytest.mark.parametrize(
    ("line", "expected", "issue"),
    [
        ("0 1.0 0.75 0.5 0.5", [Object("cat", 0.75, 0.5, 1, 1)], "boxes beyond the image edge, clipped"),
        ("0 1.5 0.5 0.5 0.5", [], "boxes outside the image, left out"),
        ("0 0.5 0.5 0 0.5", [], "boxes without area, left out"),
        ("0 0.35 0.35 -0.5 0.5", [CAT], "boxes with swapped corners, repaired"),
        ("0 nan 0.5 0.5 0.5", [], "boxes with coordinates that are not finite, left out"),
        ("0 300 200 50 60", [], "boxes far outside the image, perhaps in pixels, left out"),
        ("2 0.5 0.5 0.5 0.5", [], "objects of an unknown class, left out"),
        ("-1 0.5 0.5 0.5 0.5", [], "objects of an unknown class, left out"),
        ("0.5 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor a polygon, left out"),
        ("nan 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor a polygon, left out"),
        ("cat 0.5 0.5 0.5 0.5", [], "lines that are neither a box nor a polygon, left out"),
        ("0 0.5 0.5", [], "lines that are neither a box nor a polygon, left out"),
        ("0 0.1 0.1 0.6 0.1 0.3", [], "lines that are neither a box nor a polygon, left out"),
        (SPARE, [], "duplicate annotations, left out"),
    ],
)
def test_invalid_lines(tmp_path, capsys, line, expected, issue):
    """Invalid lines are repaired or left out, counted, and reported with their file; valid lines stay."""
    valid_lines = SPARE + "1 0.5 0.5 0.9 0.9\n1 0.5 0.5 0.8 0.8\n"
    source = yolo(tmp_path, valid_lines + line)
    objects = read_objects(source)["a.png"]
    assert [item for item in objects if item == DOG or item.label == "cat"] == [DOG, *expected]
    assert len(objects) == 3 + len(expected)
    assert [warning.partition(": 1 (")[0] for warning in source.warnings] == [issue]
    assert source.warnings[0] in capsys.readouterr().err


def test_pixels_instead_of_fractions(tmp_path):
    """Boxes are in pixels if most of them are, which is reported."""
    source = yolo(tmp_path, "0 7 3.5 10 5\n1 10 5 20 10\n")
    assert read_objects(source) == {"a.png": [CAT, DOG]}
    assert source.warnings == ("boxes in pixels instead of fractions of the image, read as pixels: 2 (all)",)


def test_missing_files(tmp_path):
    """An image without a label file or with an empty one has no objects; label files without an image are reported."""
    root = write_yolo_folder(tmp_path / "yolo", {"a": LINE, "b": None, "c": ""})
    (root / "labels" / "d.txt").write_text(LINE)
    (root / "labels" / "classes.txt").write_text("cat\n")
    source = build_source("yolo", root)
    assert read_objects(source) == {"a.png": [CAT], "b.png": [], "c.png": []}
    assert source.warnings == (
        f"label files without an image, left out: 1 ({root / 'labels' / 'd.txt'})",
        f"images without a label file, read as images without objects: 1 ({root / 'images' / 'b.png'})",
    )


def test_classes_without_names(tmp_path):
    """Class names default to numbers."""
    assert build_source("yolo", write_yolo_folder(tmp_path, {"a": "2 0.5 0.5 1 1\n"})).labels == ("0", "1", "2")


def test_splits_by_folders(tmp_path):
    """Split folders lie below or above images/; only the last folder called images is replaced by labels."""
    below = write_yolo_folder(tmp_path / "below", {"train/a": LINE, "valid/b": LINE})
    assert build_source("yolo", below).sizes == {"train": 1, "val": 1}
    assert infer_source(str(below)).name == "yolo"
    for split in ("train", "test"):
        write_yolo_folder(tmp_path / "images" / "above" / split, {"a": LINE})
    source = build_source("yolo", tmp_path / "images" / "above")
    assert source.sizes == {"train": 1, "test": 1}
    assert read_objects(source, "test")["a.png"][0][1:] == CAT[1:]
    assert infer_source(str(tmp_path / "images" / "above")).name == "yolo"


def test_settings(tmp_path):
    """All scalars of a data.yaml are texts."""
    path = tmp_path / "data.yaml"
    path.write_text(
        "# exported\n---\npath: ../data  # it's it\ntrain: [images/a, 'images/b']\nval:\n  - x\n  - \"y # z\"\nnc: 2\n"
        "names:\n  0: cat\n  1: 'big dog'\nroboflow:\n  url: https://x.y/z\nempty:\nother: {0: a, 1: \"b, c\"}\n"
    )
    assert read_settings(path) == {
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
def test_names_and_splits_of_settings(tmp_path, names):
    """Names have several notations; paths are relative to the file, to its `path`, or, in exports, to a sub-folder."""
    root = write_yolo_folder(tmp_path, {"train/a": LINE + SPARE, "b/b": LINE})
    write_image(tmp_path / "images" / "listed.png")
    (tmp_path / "labels" / "listed.txt").write_text(LINE)
    (tmp_path / "list.txt").write_text("images/listed.png\n")
    (tmp_path / "data.yaml").write_text(
        f"path: images\ntrain: train\nval: ../images/b\ntest: list.txt\nnc: 2\nnames: {names}\n"
    )
    source = build_source("yolo", root)
    assert (source.sizes, source.labels) == ({"train": 1, "val": 1, "test": 1}, ("cat", "dog"))
    assert read_objects(source, "train") == {"a.png": [CAT, DOG]}
    assert read_objects(source, "test") == {"listed.png": [CAT]}
    assert infer_source(str(tmp_path / "data.yaml")).name == infer_source(str(tmp_path)).name == "yolo"
    assert build_source("yolo", tmp_path / "data.yaml").sizes == source.sizes


def test_keypoints(tmp_path):
    """Keypoints after the box are ignored, and not read as a polygon."""
    root = write_yolo_folder(tmp_path, {"a": "0 0.35 0.35 0.5 0.5 0.9 0.9 2\n"})
    (tmp_path / "data.yaml").write_text("train: images\nkpt_shape: [1, 3]\nnames: [cat]\n")
    assert read_objects(build_source("yolo", root), "train") == {"a.png": [CAT]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, cat]\n", "Cannot read the class names: "),
        ("names:\n  1: cat\n", "Cannot read the class names: "),
        ("names: 3\n", "Cannot read the class names: "),
        ("names: [cat]\ntrain: gone\n", "No such file or folder: "),
        ("- cat\n", "The YAML file contains no mapping: "),
        ("names: [cat,\n", "Cannot read the YAML file: "),
        ("names: [&name cat, *name]\n", "Cannot read the YAML file: "),
        ("names: \xff\n", "Cannot read the YAML file: "),
    ],
)
def test_invalid_settings(tmp_path, text, message):
    """The message is one line and names the path."""
    root = write_yolo_folder(tmp_path, {"a": LINE})
    (root / "data.yaml").write_text(text, encoding="latin-1")
    assert complaint(build_source, "yolo", root).startswith(f"{message}{root}")


def test_other_folders(tmp_path):
    """The message tells the expected layout."""
    root = class_folder(tmp_path / "plain", cat=1, dog=1)
    message = complaint(build_source, "yolo", root)
    assert message.startswith(f"The folder has no labels: {root}. Expected: images/1.jpg and labels/1.txt")
    assert complaint(build_source, "yolo", tmp_path / "gone") == f"No such file or folder: {tmp_path / 'gone'}."
