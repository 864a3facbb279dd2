"""Segmentations in COCO's format: golden masks, by hand and by pycocotools, and imperfect ones."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.helpers.annotated_data import build_coco_source, build_source, make_annotation, read_masks, read_objects
from tfx_finetune.datasets.sources.segmentations import parse_rle
from tfx_finetune.ops.objects import Object

pytestmark = pytest.mark.usefixtures("empty_cache")
CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)


def test_masks(tmp_path, empty_cache):
    """Masks have polygons and both kinds of run lengths, ignore crowds, draw small objects last, and are cached."""
    dog = np.zeros((10, 20), np.uint8, order="F")
    dog[2:4, 3:5] = 1
    crowd = np.zeros((10, 20), np.uint8, order="F")
    crowd[:, 8:] = 1
    compressed = coco_mask.encode(dog) | {"counts": coco_mask.encode(dog)["counts"].decode()}
    run_lengths = [80, 120]
    source = build_coco_source(
        tmp_path,
        make_annotation(segmentation=compressed, category=90),
        make_annotation(segmentation=[[2, 1, 12, 1, 12, 6, 2, 6]]),
        make_annotation([8, 0, 12, 10], segmentation={"size": [10, 20], "counts": run_lengths}, iscrowd=1),
        masks=True,
    )
    expected = np.zeros((10, 20), np.uint8)
    expected[:, 8:] = 255
    expected[1:6, 2:12] = 1
    expected[2:4, 3:5] = 2
    assert source.labels == ("background", "cat", "dog")
    assert source.paths == ("image", "mask")
    np.testing.assert_array_equal(read_masks(source)["a.png"], expected)
    files = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("*.png")}
    assert len(files) == 1
    again = build_source("coco", tmp_path / "all.json", masks=True)
    np.testing.assert_array_equal(read_masks(again)["a.png"], expected)
    assert {path: path.stat().st_mtime_ns for path in empty_cache.rglob("*.png")} == files
    build_coco_source(tmp_path, make_annotation(segmentation=compressed), masks=True)
    assert len(list(empty_cache.rglob("*.png"))) == 2


def test_run_lengths_match_pycocotools():
    """Compressed run lengths are decoded like those of pycocotools, which does not check that they fill the image."""
    random = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (64, 48), (300, 200)):
        for fraction in (0.0, 0.02, 0.5, 1.0):
            mask = np.asfortranarray(random.random(shape) < fraction)
            counts = coco_mask.encode(mask.astype(np.uint8))["counts"].decode()
            run_lengths = parse_rle({"size": list(shape), "counts": counts}, shape[1], shape[0])
            pixels = np.repeat(np.arange(len(run_lengths)) % 2 == 1, run_lengths)
            np.testing.assert_array_equal(pixels, mask.ravel("F"))


POLYGONS = "polygons with fewer than three points or invalid coordinates, left out: 1 (a.png)"
LENGTHS = "run lengths that do not fill the image, left out: 1 (a.png)"


@pytest.mark.parametrize(
    ("segmentation", "issue"),
    [
        ([[2, 1, 12, 6]], POLYGONS),
        ([[2, 1, 12, 6, 3]], POLYGONS),
        ([["x", 1, 12, 6, 3, 3]], POLYGONS),
        ([[2, 1, 1e9, 6, 3, 3]], POLYGONS),
        ([[float("nan"), 1, 5, 6, 3, 3]], POLYGONS),
        ([3, 4], POLYGONS),
        ("polygon", POLYGONS),
        ({"size": [20, 10], "counts": [80, 120]}, LENGTHS),
        ({"size": [10, 20], "counts": [80, 20]}, LENGTHS),
        ({"size": [10, 20], "counts": [-80, 280]}, LENGTHS),
        ({"size": [10, 20], "counts": "zzzz"}, LENGTHS),
        ({"size": [10, 20], "counts": "531"}, LENGTHS),
        ({"size": [10, 20]}, LENGTHS),
        (None, ""),
    ],
)
def test_invalid_segmentations(tmp_path, segmentation, issue):
    """The box stays, and is ignored in the mask."""
    source = build_coco_source(tmp_path, make_annotation([2.5, 1, 9.5, 5], segmentation=segmentation), masks=True)
    expected = np.zeros((10, 20), np.uint8)
    expected[1:6, 2:12] = 255
    np.testing.assert_array_equal(read_masks(source)["a.png"], expected)
    assert read_objects(source) == {"a.png": [Object("cat", 0.125, 0.1, 0.6, 0.6)]}
    assert source.warnings == ((issue,) if issue else ())


@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0]])
@pytest.mark.parametrize("masks", [True, False])
def test_bounding_boxes_of_segmentations(tmp_path, bbox, masks):
    """A missing box is the bounding box of the polygons or of the pixels."""
    polygons = make_annotation(bbox, segmentation=[[2, 1, 12, 1, 12, 2], [4, 6, 4, 5, 3, 5]])
    run_lengths = make_annotation(bbox, 90, segmentation={"size": [10, 20], "counts": [23, 4, 6, 4, 163]})
    source = build_coco_source(tmp_path, polygons, run_lengths, masks=masks)
    assert read_objects(source) == {"a.png": [CAT, Object("dog", 0.1, 0.3, 0.2, 0.7)]}
    assert source.warnings == (("boxes without area, computed from their segmentation: 2 (a.png)",) if bbox else ())
