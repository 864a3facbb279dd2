"""Data sets in the format of Pascal VOC: golden boxes by hand, splits, masks, and files that are broken."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.annotated_data import mask_file, objects, picture, source, values, voc_folder, voc_xml
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

# Pixels are counted from 1, and the last one belongs to the box: 2 to 12 of 20, 1 to 5 of 10.
BOX = (3, 2, 12, 6)
CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
SPARE = ("dog", (1, 1, 20, 10), 0)
DOG = Object("dog", 0, 0, 1, 1)


def voc(tmp_path, *marked, **options):
    return source("voc", voc_folder(tmp_path / "voc", {"a": voc_xml(SPARE, *marked, **options)}))


def test_boxes(tmp_path):
    """Golden ones; what is difficult is neither learned nor scored; classes are those that there are."""
    found = voc(tmp_path, ("cat", BOX, 0), ("big  cat", BOX, 1))
    assert (found.name, found.labels, found.paths, found.sizes) == ("voc", (), ("image",), {"all": 1})
    assert objects(found) == {"a.jpg": [DOG, CAT, CAT._replace(label="big cat", crowd=True)]}
    assert found.notes == ()


def test_masks_as_the_configuration_reads_them(tmp_path, monkeypatch):
    """configs/voc_segment.cfg on a folder laid out like that of the challenge has the column that its head learns."""
    monkeypatch.chdir(tmp_path)
    root = voc_folder(tmp_path / "VOC2012", dict.fromkeys("abc", voc_xml(SPARE)))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "ab"), ("val", "c")):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            mask_file(root / "SegmentationClass" / f"{name}.png", np.full((10, 20), 12))
    run, _ = flagfile.parse_flags(["train", f"--flagfile={CONFIGS / 'voc_segment.cfg'}"], Run())
    plan = check(run)
    opened = open_sources(plan.sources)
    assert opened.sizes == {"train": 2, "val": 1}
    assert opened.labels == CLASSES
    assert {draft.column for draft in plan.task_templates.values()} <= set(get_schema(opened))
    assert {int(mask[0, 0]) for mask in values(opened, "train").values()} == {CLASSES.index("dog")}


def test_size_that_is_not_said(tmp_path):
    """It is that of the picture."""
    assert objects(voc(tmp_path, ("cat", BOX, 0), size=None)) == {"a.jpg": [DOG, CAT]}


@pytest.mark.parametrize(
    ("name", "box", "left", "note"),
    [
        ("cat", (16, 6, 30, 12), [Object("cat", 0.75, 0.5, 1, 1)], "boxes that reach beyond their picture, clipped"),
        ("cat", (31, 6, 35, 8), [], "boxes outside of their picture, left out"),
        ("cat", (3, 2, 2, 6), [], "boxes without area, left out"),
        ("cat", (13, 7, 2, 1), [CAT], "boxes with their corners the other way round, put right"),
        ("cat", ("x", 1, 2, 3), [], "objects without a class or four corners, left out"),
        ("cat", (1, 2, 3), [], "objects without a class or four corners, left out"),
        ("", BOX, [], "objects without a class or four corners, left out"),
        (*SPARE[:2], [], "annotations that are there twice, left out"),
        ("cat", ("inf", 1, 2, 3), [], "boxes whose edges are no numbers, left out"),
    ],
)
def test_boxes_that_are_wrong(tmp_path, capsys, name, box, left, note):
    """Mended or left out, counted, said with the file; the good one beside it stays."""
    found = voc(tmp_path, (name, box, 0))
    assert objects(found) == {"a.jpg": [DOG, *left]}
    assert [each.partition(": 1 (")[0] for each in found.notes] == [note]
    assert found.notes[0] in capsys.readouterr().err


def test_other_ways_to_count(tmp_path):
    """From 0, as most programs do, and in shares: told by all boxes of the folder, and said."""
    zero = voc_folder(tmp_path / "zero", {"a": voc_xml(("cat", (2, 1, 12, 6), 0), ("dog", (0, 0, 20, 10), 0))})
    found = source("voc", zero)
    assert objects(found) == {"a.jpg": [CAT, DOG]}
    assert found.notes == ("boxes that count pixels from 0, not from 1 as VOC does, read so: 2 (all)",)
    share = voc_folder(tmp_path / "share", {"a": voc_xml(("cat", (0.1, 0.1, 0.6, 0.6), 0))})
    found = source("voc", share)
    assert objects(found) == {"a.jpg": [CAT]}
    assert found.notes == ("boxes in shares of their picture where VOC has pixels, taken as shares: 1 (all)",)


def test_pictures_that_are_shown_turned(tmp_path):
    """A photo of a phone whose boxes are those of the stored picture: pixel 0 of a row comes to stand on top."""
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(("cat", (3, 1, 12, 2), 0))})
    picture(root / "JPEGImages" / "a.jpg", orientation=6)
    assert objects(source("voc", root)) == {"a.jpg": [Object("cat", 0.8, 0.1, 1, 0.6)]}


def test_splits(tmp_path):
    """Lists of names, with a flag or not; trainval where nothing finer is there; a split that is not annotated."""
    files = {name: voc_xml(("cat", BOX, 0)) for name in "abc"}
    root = voc_folder(tmp_path / "voc", files, {"trainval": ["a  1", "b -1", "", "gone"], "test": ["x", "y"]})
    found = source("voc", root)
    assert found.sizes == {"train": 3}
    # What is listed and not there is a sample that cannot be read: the survey lists it.
    assert list(objects(found, "train")) == ["a.jpg", "b.jpg", "gone.jpg"]
    assert found.notes == (
        f"pictures without an annotation file, taken for empty: 1 ({root / 'JPEGImages' / 'gone.jpg'})",
        "splits whose pictures have no annotations, left out: 1 (test)",
    )
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\nc\n")
    assert source("voc", root).sizes == {"train": 1, "val": 2}


def test_files_beside_their_pictures(tmp_path):
    """As LabelImg writes them, in one folder or in one a split; pictures without a file are empty."""
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "train" / "b.png")
    picture(tmp_path / "valid" / "renamed.png")
    (tmp_path / "train" / "a.xml").write_text(voc_xml(("cat", BOX, 0)))
    (tmp_path / "valid" / "c.xml").write_text(voc_xml(("cat", BOX, 0), file="renamed.jpg"))
    (tmp_path / "valid" / "d.xml").write_text(voc_xml(("cat", BOX, 0), file="gone.jpg"))
    found = source("voc", tmp_path)
    assert objects(found, "train") == {"a.png": [CAT], "b.png": []}
    assert objects(found, "val") == {"renamed.png": [CAT], "gone.jpg": [CAT]}
    assert found.notes == (f"pictures without an annotation file, taken for empty: 1 ({tmp_path / 'train' / 'b.png'})",)
    assert infer_source(str(tmp_path)).name == infer_source(str(tmp_path / "train")).name == "voc"


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize("text", ["", "<annotation>", "<html/>", "a,b\n", BOMB, BOMB.replace("[", "SYSTEM 'x' [")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_files_that_cannot_be_read(tmp_path, text, encoding):
    """They and their pictures are left out, counted: the picture is not taken for empty; no entity is expanded."""
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(("cat", BOX, 0)), "b": ""})
    (root / "Annotations" / "b.xml").write_text(text, encoding=encoding)
    found = source("voc", root)
    assert objects(found) == {"a.jpg": [CAT]}
    note = "annotation files that cannot be read, left out with their pictures"
    assert found.notes == (f"{note}: 1 ({root / 'Annotations' / 'b.xml'})",)
    (root / "Annotations" / "a.xml").write_text(text, encoding=encoding)
    assert complaint(source, "voc", root).startswith(f"no annotation of this folder can be read; received: {root}; ")


def test_masks(tmp_path):
    """The values are VOC's classes, 255 the border between; the splits are those of segmentation."""
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(SPARE), "b": voc_xml(SPARE)})
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:9] = 8
    mask[5] = 255
    mask_file(root / "SegmentationClass" / "a.png", mask, "P", [17, 9, 3] * 256)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    found = source("voc", root, masks=True)
    assert (found.sizes, found.paths, found.labels[8], len(found.labels)) == (
        {"train": 1},
        ("image", "mask"),
        "cat",
        21,
    )
    np.testing.assert_array_equal(values(found, "train")["a.jpg"], mask)
    assert found.notes == ("pictures without a mask, left out: 1 (b)",)
    said = complaint(source, "voc", voc_folder(tmp_path / "none", {"a": voc_xml()}), True)
    assert (
        said == f"no mask of this folder can be used; received: {tmp_path / 'none'}; allowed: SegmentationClass/*.png"
    )


def test_masks_of_other_classes(tmp_path):
    """A labelmap.txt as CVAT writes it, and the indices of its palette, which are in the same order."""
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(SPARE)})
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nnone:0,0,0::\nroad:128,0,0::\n")
    mask_file(root / "SegmentationClass" / "a.png", np.ones((10, 20)), "P")
    found = source("voc", root, masks=True)
    assert found.labels == ("none", "road")
    assert (values(found)["a.jpg"] == 1).all()


def test_recognized(tmp_path):
    """A folder of classes with notes in XML is none."""
    root = voc_folder(tmp_path / "voc", {"a": voc_xml(SPARE)})
    assert infer_source(str(root)).name == "voc"
    plain = class_folder(tmp_path / "plain", cat=1, dog=1)
    (plain / "about.xml").write_text("<about/>")
    (plain / "Annotations").mkdir()
    assert infer_source(str(plain)).name == "folder"
    assert complaint(source, "voc", tmp_path / "gone") == f"no such folder; received: {tmp_path / 'gone'}"
