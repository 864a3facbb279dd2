"""Pascal VOC's format: golden boxes by hand, splits, masks, and broken files."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.annotated_data import (
    build_source,
    make_voc_xml,
    read_masks,
    read_objects,
    write_image,
    write_mask,
    write_voc_folder,
)
from tests.helpers.small_data import class_folder, complaint
from tfx_finetune.core import flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.datasets.mixture import open_sources
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.voc import CLASSES
from tfx_finetune.ops.objects import Object
from tfx_finetune.ops.tf_data import get_schema
from tfx_finetune.run.plan import check

CONFIGS = Path(__file__).parent.parent.parent / "configs"

# Pixels are counted from 1, and a box includes its last pixel: 2 to 12 of 20, 1 to 5 of 10.
BOX = (3, 2, 12, 6)
CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
SPARE = ("dog", (1, 1, 20, 10), 0)
DOG = Object("dog", 0, 0, 1, 1)


def voc(tmp_path, *annotated, **options):
    return build_source("voc", write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(SPARE, *annotated, **options)}))


def test_boxes(tmp_path):
    """Boxes become fractions; difficult objects are crowds; classes are collected later."""
    source = voc(tmp_path, ("cat", BOX, 0), ("big  cat", BOX, 1))
    assert (source.name, source.labels, source.paths, source.sizes) == ("voc", (), ("image",), {"all": 1})
    assert read_objects(source) == {"a.jpg": [DOG, CAT, CAT._replace(label="big cat", crowd=True)]}
    assert source.warnings == ()


def test_masks_of_the_configuration(tmp_path, monkeypatch):
    """configs/voc_segment.cfg reads the column that its head needs from a folder in the layout of the challenge."""
    monkeypatch.chdir(tmp_path)
    root = write_voc_folder(tmp_path / "VOC2012", dict.fromkeys("abc", make_voc_xml(SPARE)))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "ab"), ("val", "c")):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            write_mask(root / "SegmentationClass" / f"{name}.png", np.full((10, 20), 12))
    run, _ = flagfile.parse_flags(["train", f"--flagfile={CONFIGS / 'voc_segment.cfg'}"], Run())
    plan = check(run)
    source = open_sources(plan.sources)
    assert source.sizes == {"train": 2, "val": 1}
    assert source.labels == CLASSES
    assert {task.column for task in plan.task_templates.values()} <= set(get_schema(source))
    assert {int(mask[0, 0]) for mask in read_masks(source, "train").values()} == {CLASSES.index("dog")}


def test_missing_size(tmp_path):
    """A missing size is read from the image."""
    assert read_objects(voc(tmp_path, ("cat", BOX, 0), size=None)) == {"a.jpg": [DOG, CAT]}


@pytest.mark.parametrize(
    ("name", "box", "expected", "issue"),
    [
        ("cat", (16, 6, 30, 12), [Object("cat", 0.75, 0.5, 1, 1)], "boxes beyond the image edge, clipped"),
        ("cat", (31, 6, 35, 8), [], "boxes outside the image, left out"),
        ("cat", (3, 2, 2, 6), [], "boxes without area, left out"),
        ("cat", (13, 7, 2, 1), [CAT], "boxes with swapped corners, repaired"),
        ("cat", ("x", 1, 2, 3), [], "objects without a class or four edges, left out"),
        ("cat", (1, 2, 3), [], "objects without a class or four edges, left out"),
        ("", BOX, [], "objects without a class or four edges, left out"),
        (*SPARE[:2], [], "duplicate annotations, left out"),
        ("cat", ("inf", 1, 2, 3), [], "boxes with coordinates that are not finite, left out"),
    ],
)
def test_invalid_boxes(tmp_path, capsys, name, box, expected, issue):
    """Invalid boxes are repaired or left out, counted, and reported with their file; valid boxes stay."""
    source = voc(tmp_path, (name, box, 0))
    assert read_objects(source) == {"a.jpg": [DOG, *expected]}
    assert [warning.partition(": 1 (")[0] for warning in source.warnings] == [issue]
    assert source.warnings[0] in capsys.readouterr().err


def test_other_coordinates(tmp_path):
    """Pixels from 0 and fractions are recognized by all boxes of the folder, and reported."""
    from_zero = write_voc_folder(
        tmp_path / "zero", {"a": make_voc_xml(("cat", (2, 1, 12, 6), 0), ("dog", (0, 0, 20, 10), 0))}
    )
    source = build_source("voc", from_zero)
    assert read_objects(source) == {"a.jpg": [CAT, DOG]}
    assert source.warnings == ("boxes that count pixels from 0 instead of 1, read as such: 2 (all)",)
    fractions = write_voc_folder(tmp_path / "fractions", {"a": make_voc_xml(("cat", (0.1, 0.1, 0.6, 0.6), 0))})
    source = build_source("voc", fractions)
    assert read_objects(source) == {"a.jpg": [CAT]}
    assert source.warnings == ("boxes as fractions of the image instead of pixels, read as fractions: 1 (all)",)


def test_exif_orientation(tmp_path):
    """Boxes of the stored image are rotated with it."""
    root = write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(("cat", (3, 1, 12, 2), 0))})
    write_image(root / "JPEGImages" / "a.jpg", orientation=6)
    assert read_objects(build_source("voc", root)) == {"a.jpg": [Object("cat", 0.8, 0.1, 1, 0.6)]}


def test_splits(tmp_path):
    """Split files list names, with or without a flag; trainval is the training split if there is no train."""
    files = {name: make_voc_xml(("cat", BOX, 0)) for name in "abc"}
    root = write_voc_folder(tmp_path / "voc", files, {"trainval": ["a  1", "b -1", "", "gone"], "test": ["x", "y"]})
    source = build_source("voc", root)
    assert source.sizes == {"train": 3}
    # A missing image is a sample that cannot be read: the survey lists it.
    assert list(read_objects(source, "train")) == ["a.jpg", "b.jpg", "gone.jpg"]
    assert source.warnings == (
        f"images without an annotation file, read as images without objects: 1 ({root / 'JPEGImages' / 'gone.jpg'})",
        "splits without annotations, left out: 1 (test)",
    )
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\nc\n")
    assert build_source("voc", root).sizes == {"train": 1, "val": 2}


def test_files_next_to_their_images(tmp_path):
    """LabelImg writes files next to the images, in one folder or in one per split."""
    write_image(tmp_path / "train" / "a.png")
    write_image(tmp_path / "train" / "b.png")
    write_image(tmp_path / "valid" / "renamed.png")
    (tmp_path / "train" / "a.xml").write_text(make_voc_xml(("cat", BOX, 0)))
    (tmp_path / "valid" / "c.xml").write_text(make_voc_xml(("cat", BOX, 0), file="renamed.jpg"))
    (tmp_path / "valid" / "d.xml").write_text(make_voc_xml(("cat", BOX, 0), file="gone.jpg"))
    source = build_source("voc", tmp_path)
    assert read_objects(source, "train") == {"a.png": [CAT], "b.png": []}
    assert read_objects(source, "val") == {"renamed.png": [CAT], "gone.jpg": [CAT]}
    assert source.warnings == (
        f"images without an annotation file, read as images without objects: 1 ({tmp_path / 'train' / 'b.png'})",
    )
    assert infer_source(str(tmp_path)).name == infer_source(str(tmp_path / "train")).name == "voc"


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize("text", ["", "<annotation>", "<html/>", "a,b\n", BOMB, BOMB.replace("[", "SYSTEM 'x' [")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_unreadable_files(tmp_path, text, encoding):
    """Unreadable files are left out with their images and counted; no entity is expanded."""
    root = write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(("cat", BOX, 0)), "b": ""})
    (root / "Annotations" / "b.xml").write_text(text, encoding=encoding)
    source = build_source("voc", root)
    assert read_objects(source) == {"a.jpg": [CAT]}
    issue = "unreadable annotation files, left out with their images"
    assert source.warnings == (f"{issue}: 1 ({root / 'Annotations' / 'b.xml'})",)
    (root / "Annotations" / "a.xml").write_text(text, encoding=encoding)
    assert complaint(build_source, "voc", root).startswith(f"The folder has no readable annotation: {root}. ")


def test_masks(tmp_path):
    """Mask values are VOC's classes, 255 is the border between objects; splits are those of segmentation."""
    root = write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(SPARE), "b": make_voc_xml(SPARE)})
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:9] = 8
    mask[5] = 255
    write_mask(root / "SegmentationClass" / "a.png", mask, "P", [17, 9, 3] * 256)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    source = build_source("voc", root, masks=True)
    assert (source.sizes, source.paths, source.labels[8], len(source.labels)) == (
        {"train": 1},
        ("image", "mask"),
        "cat",
        21,
    )
    np.testing.assert_array_equal(read_masks(source, "train")["a.jpg"], mask)
    assert source.warnings == ("images without a mask, left out: 1 (b)",)
    message = complaint(build_source, "voc", write_voc_folder(tmp_path / "none", {"a": make_voc_xml()}), True)
    assert message == f"The folder has no usable mask: {tmp_path / 'none'}. Expected: SegmentationClass/*.png."


def test_masks_of_other_classes(tmp_path):
    """A labelmap.txt of CVAT lists the classes in the order of the palette indices."""
    root = write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(SPARE)})
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nnone:0,0,0::\nroad:128,0,0::\n")
    write_mask(root / "SegmentationClass" / "a.png", np.ones((10, 20)), "P")
    source = build_source("voc", root, masks=True)
    assert source.labels == ("none", "road")
    assert (read_masks(source)["a.jpg"] == 1).all()


def test_format_is_inferred(tmp_path):
    """A folder of classes with notes in XML is not VOC."""
    root = write_voc_folder(tmp_path / "voc", {"a": make_voc_xml(SPARE)})
    assert infer_source(str(root)).name == "voc"
    plain = class_folder(tmp_path / "plain", cat=1, dog=1)
    (plain / "about.xml").write_text("<about/>")
    (plain / "Annotations").mkdir()
    assert infer_source(str(plain)).name == "folder"
    assert complaint(build_source, "voc", tmp_path / "gone") == f"No such folder: {tmp_path / 'gone'}."
