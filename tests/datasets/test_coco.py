"""Data sets in COCO's format: golden boxes and masks by hand and by pycocotools, and files as people have them."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from tests.helpers.annotated_data import annotation, coco_file, objects, picture, source, values
from tests.helpers.small_data import complaint, load
from tests.helpers.small_data import picture as any_picture
from tfx_finetune.core import assets
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.datasets.sources.outlines import parse_rle
from tfx_finetune.ops.objects import Object

CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
TWO = [
    {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
    {"id": 8, "file_name": "b.png", "width": 20, "height": 10},
]


@pytest.fixture(autouse=True)
def cache(tmp_path):
    assets.set_cache_dir(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    assets.set_cache_dir("")


def coco(tmp_path, *annotations, **options):
    return source("coco", coco_file(tmp_path / "all.json", annotations), **options)


def test_boxes(tmp_path):
    """x, y, width and height of 20 by 10 pixels; classes in the order of their ids, which have gaps; crowds."""
    found = coco(tmp_path, annotation(), annotation([0, 0, 20, 10], 90, iscrowd=1))
    assert (found.name, found.labels, found.paths, found.sizes) == ("all", ("cat", "dog"), ("image",), {"all": 1})
    assert objects(found) == {"a.png": [CAT, Object("dog", 0, 0, 1, 1, True)]}
    assert found.notes == ()


def test_pictures_without_annotations_are_kept(tmp_path):
    """There is nothing to be found in them, which is worth knowing."""
    found = source("coco", coco_file(tmp_path / "all.json", [annotation()], TWO))
    assert objects(found) == {"a.png": [CAT], "b.png": []}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("wrong", "left", "note"),
    [
        (
            annotation([15, 5, 10, 10]),
            [Object("cat", 0.75, 0.5, 1, 1)],
            "boxes that reach beyond their picture, clipped",
        ),
        (annotation([30, 5, 10, 10]), [], "boxes outside of their picture, left out"),
        (annotation([5, 5, 0, 5]), [], "boxes without area, left out"),
        (annotation([12, 6, -10, -5]), [CAT], "boxes with their corners the other way round, put right"),
        (annotation([float("nan"), 5, 1, 1]), [], "boxes whose edges are no numbers, left out"),
        (
            annotation([0.1, 0.1, 0.5, 0.5]),
            [],
            "boxes within the first pixel of their picture, perhaps in shares, left out",
        ),
        (annotation([1, 2, 3]), [], "annotations with neither box nor outline, left out"),
        (annotation(None), [], "annotations with neither box nor outline, left out"),
    ],
)
def test_boxes_that_are_wrong(tmp_path, capsys, wrong, left, note):
    """Mended or left out, counted, and said with the file; the good ones beside them stay."""
    good = annotation([0, 0, 20, 10], 90)
    found = coco(tmp_path, good, wrong)
    assert objects(found) == {"a.png": [Object("dog", 0, 0, 1, 1), *left]}
    assert found.notes == (f"{note}: 1 (a.png)",)
    assert found.notes[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        (annotation(category=2), "annotations of an unknown category, left out: 1 (a.png: 2)"),
        (annotation(category=[1]), "annotations of an unknown category, left out: 1 (a.png: [1])"),
        (annotation(image=9), "annotations of a picture that is not listed, left out: 1 (image 9)"),
        ("no object", "annotations of a picture that is not listed, left out: 1 (all.json)"),
        (annotation([0, 0, 20, 10], 90), "annotations that are there twice, left out: 1 (a.png)"),
    ],
)
def test_annotations_that_belong_nowhere(tmp_path, wrong, note):
    """Counted with what is wrong with them."""
    found = coco(tmp_path, annotation([0, 0, 20, 10], 90), wrong)
    assert objects(found) == {"a.png": [Object("dog", 0, 0, 1, 1)]}
    assert found.notes == (note,)


def test_shares_in_place_of_pixels(tmp_path):
    """Where no box leaves the first pixel, all are shares, which is said; outlines too where they are."""
    outline = [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6, 0.1, 0.6]]
    found = coco(tmp_path, annotation([0.1, 0.1, 0.5, 0.5], segmentation=outline), masks=True)
    assert objects(found) == {"a.png": [CAT]}
    assert found.notes == (
        f"boxes in shares of their picture where COCO has pixels, taken as shares: 1 ({tmp_path.name})",
    )
    expected = np.zeros((10, 20))
    expected[1:6, 2:12] = 1
    np.testing.assert_array_equal(values(found)["a.png"], expected)


def test_ids_that_are_there_twice(tmp_path):
    """One id of two pictures tells nothing of either; two ids of one picture are one picture."""
    images = [*TWO, {"id": 8, "file_name": "c.png"}, {"id": 9, "file_name": "a.png"}, {"file_name": "d.png"}]
    one, other = annotation(id=1), annotation([0, 0, 20, 10], 90, 9, id=1)
    found = source("coco", coco_file(tmp_path / "all.json", [one, other, annotation(image=8)], images))
    assert objects(found) == {"a.png": [CAT, Object("dog", 0, 0, 1, 1)]}
    assert found.notes == (
        "pictures with the id of another one, left out with that one and their annotations: 1 (c.png)",
        "pictures that are listed twice, joined: 1 (a.png)",
        "pictures without an id or a file name, left out: 1 (all.json)",
        "annotations with the id of another one, kept: 1 (a.png)",
        "annotations of a picture that is not listed, left out: 1 (image 8)",
    )


def test_categories(tmp_path):
    """One name of two ids is one class; one id of two names is nothing that can be read."""
    twice = [
        {"id": 3, "name": "cat"},
        {"id": 1, "name": " big\tcat "},
        {"id": 2, "name": "cat"},
        {"id": 5},
        {"name": "x"},
    ]
    found = source("coco", coco_file(tmp_path / "all.json", [annotation(category=3)], categories=twice))
    assert found.labels == ("big cat", "cat", "5")
    assert found.notes == (
        "categories without an id, left out: 1 (all.json)",
        "categories of one name, joined: 1 (cat)",
    )
    torn = coco_file(tmp_path / "torn.json", [], categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}])
    assert complaint(source, "coco", torn).startswith(
        f"a category id with two names; received: {torn}: 1 is cat and dog; "
    )


def test_sizes(tmp_path):
    """By the picture where the file says none; one that was scaled since keeps its boxes; another shape is said."""
    images = [
        {"id": 1, "file_name": "unsaid.png"},
        {"id": 2, "file_name": "scaled.png"},
        {"id": 3, "file_name": "other.png"},
    ]
    place = coco_file(tmp_path / "all.json", [], images)
    images[1] |= {"width": 200, "height": 100}
    images[2] |= {"width": 20, "height": 20}
    found = [annotation(image=1), annotation([20, 10, 100, 50], image=2), annotation(image=3)]
    content = json.loads(place.read_text()) | {"images": images, "annotations": found}
    place.write_text(json.dumps(content))
    found = source("coco", place)
    assert objects(found) == {
        "unsaid.png": [CAT],
        "scaled.png": [CAT],
        "other.png": [Object("cat", 0.1, 0.05, 0.6, 0.3)],
    }
    assert found.notes == (f"pictures of another shape than their annotations say: 1 ({tmp_path / 'other.png'})",)


@pytest.mark.parametrize("size", [(0, 10), (-20, 10), (float("nan"), 10), (20, float("inf")), (1e30, 10), (0.2, 0.1)])
def test_sizes_that_cannot_be(tmp_path, size):
    """They are those of the picture, and no memory is taken for them."""
    place = coco_file(tmp_path / "all.json", [annotation(segmentation=[[2, 1, 12, 1, 12, 6, 2, 6]])])
    content = json.loads(place.read_text())
    content["images"][0] |= {"width": size[0], "height": size[1]}
    place.write_text(json.dumps(content))
    found = source("coco", place, masks=True)
    assert objects(found) == {"a.png": [CAT]}
    assert values(found)["a.png"].shape == (10, 20)
    note = "widths and heights that no picture has, taken from the picture"
    assert found.notes == (f"{note}: 1 ({tmp_path / 'a.png'})",)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_pictures_that_are_shown_turned(tmp_path, orientation):
    """Where the size is that of the stored picture, boxes and masks are turned as Pillow turns the picture."""
    outline = [[2, 1, 6, 1, 6, 9, 2, 9]]
    place = coco_file(tmp_path / "all.json", [annotation([2, 1, 4, 8], segmentation=outline)])
    picture(tmp_path / "a.png", orientation=orientation)
    found = source("coco", place, masks=True)
    stored = np.zeros((10, 20), np.uint8)
    stored[1:9, 2:6] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "stored.png", exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "stored.png")))
    np.testing.assert_array_equal(values(found)["a.png"], shown)
    y, x = np.nonzero(shown)
    edges = x.min() / 10, y.min() / 20, (x.max() + 1) / 10, (y.max() + 1) / 20
    np.testing.assert_allclose(objects(found)["a.png"][0][1:5], edges, atol=1e-6)
    assert found.notes == (
        f"pictures annotated as they lie in their file, not as they are shown; turned: 1 ({tmp_path / 'a.png'})",
    )


def test_masks(tmp_path, cache):
    """Polygons, both kinds of run lengths, crowds as untold; small things above large ones; drawn once."""
    dog = np.zeros((10, 20), np.uint8, order="F")
    dog[2:4, 3:5] = 1
    crowd = np.zeros((10, 20), np.uint8, order="F")
    crowd[:, 8:] = 1
    ragged = coco_mask.encode(dog) | {"counts": coco_mask.encode(dog)["counts"].decode()}
    lengths = [80, 120]
    found = coco(
        tmp_path,
        annotation(segmentation=ragged, category=90),
        annotation(segmentation=[[2, 1, 12, 1, 12, 6, 2, 6]]),
        annotation([8, 0, 12, 10], segmentation={"size": [10, 20], "counts": lengths}, iscrowd=1),
        masks=True,
    )
    expected = np.zeros((10, 20), np.uint8)
    expected[:, 8:] = 255
    expected[1:6, 2:12] = 1
    expected[2:4, 3:5] = 2
    assert found.labels == ("background", "cat", "dog")
    assert found.paths == ("image", "mask")
    np.testing.assert_array_equal(values(found)["a.png"], expected)
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert len(files) == 1
    again = source("coco", tmp_path / "all.json", masks=True)
    np.testing.assert_array_equal(values(again)["a.png"], expected)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == files
    coco(tmp_path, annotation(segmentation=ragged), masks=True)
    assert len(list(cache.rglob("*.png"))) == 2


def test_run_lengths_are_those_of_pycocotools():
    """Compressed ones are read here, since pycocotools does not check that they fill the picture."""
    random = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (64, 48), (300, 200)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = np.asfortranarray(random.random(shape) < share)
            counts = coco_mask.encode(mask.astype(np.uint8))["counts"].decode()
            found = parse_rle({"size": list(shape), "counts": counts}, shape[1], shape[0])
            np.testing.assert_array_equal(np.repeat(np.arange(len(found)) % 2 == 1, found), mask.ravel("F"))


POLYGONS = "polygons of fewer than three points, or not of numbers in their picture, left out: 1 (a.png)"
LENGTHS = "run lengths that do not fill their picture, left out: 1 (a.png)"


@pytest.mark.parametrize(
    ("outline", "note"),
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
def test_outlines_that_are_wrong(tmp_path, outline, note):
    """The box stays, and is untold in the mask."""
    found = coco(tmp_path, annotation([2.5, 1, 9.5, 5], segmentation=outline), masks=True)
    expected = np.zeros((10, 20), np.uint8)
    expected[1:6, 2:12] = 255
    np.testing.assert_array_equal(values(found)["a.png"], expected)
    assert objects(found) == {"a.png": [Object("cat", 0.125, 0.1, 0.6, 0.6)]}
    assert found.notes == ((note,) if note else ())


@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0]])
@pytest.mark.parametrize("masks", [True, False])
def test_boxes_of_outlines(tmp_path, bbox, masks):
    """Where there is no box, it is that around the outline: of points, or of pixels."""
    polygons = annotation(bbox, segmentation=[[2, 1, 12, 1, 12, 2], [4, 6, 4, 5, 3, 5]])
    lengths = annotation(bbox, 90, segmentation={"size": [10, 20], "counts": [23, 4, 6, 4, 163]})
    found = coco(tmp_path, polygons, lengths, masks=masks)
    assert objects(found) == {"a.png": [CAT, Object("dog", 0.1, 0.3, 0.2, 0.7)]}
    assert found.notes == (("boxes without area, made of their outline: 2 (a.png)",) if bbox else ())


def test_splits(tmp_path):
    """Files by name, or a folder whose files or folders are named after splits; classes are united."""
    for name in ("instances_train2017", "instances_val2017"):
        (tmp_path / "coco" / "annotations").mkdir(parents=True, exist_ok=True)
        image = [{"id": 7, "file_name": f"{name}.png", "width": 20, "height": 10}]
        place = coco_file(tmp_path / "coco" / "annotations" / f"{name}.json", [annotation()], image)
        target = tmp_path / "coco" / name.removeprefix("instances_") / f"{name}.png"
        target.parent.mkdir()
        (place.parent / f"{name}.png").rename(target)
    (tmp_path / "coco" / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    found = source("coco", tmp_path / "coco")
    assert (found.name, found.sizes) == ("coco", {"train": 1, "val": 1})
    assert objects(found, "val") == {"instances_val2017.png": [CAT]}
    assert infer_source(str(tmp_path / "coco")).name == "coco"
    annotations = tmp_path / "coco" / "annotations"
    said = source("coco", annotations / "instances_train2017.json", test=str(annotations / "instances_val2017.json"))
    assert said.sizes == {"train": 1, "test": 1}
    for name in ("train", "valid"):
        (tmp_path / "export" / name).mkdir(parents=True)
        more = [{"id": 4, "name": "cow"}] if name == "valid" else [{"id": 1, "name": "cat"}]
        coco_file(tmp_path / "export" / name / "_annotations.coco.json", [], categories=more)
    export = source("coco", tmp_path / "export")
    assert (export.sizes, export.labels) == ({"train": 1, "val": 1}, ("cat", "cow"))


def test_pictures_in_another_folder(tmp_path):
    """Looked for beside the file, else as it is said; those that are not there are left to the survey."""
    images = [*TWO, {"id": 9, "file_name": "gone.png", "width": 20, "height": 10}]
    place = coco_file(tmp_path / "all.json", [annotation()], images)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").rename(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "gone.png").unlink()
    said = (
        f"none of the pictures is found; received: {place} lists a.png, ...; allowed: {tmp_path}, {tmp_path.parent}; "
    )
    assert complaint(source, "coco", place) == said + "say images='FOLDER'"
    found = source("coco", place, str(tmp_path / "photos"))
    assert list(objects(found)) == ["a.png", "b.png", "gone.png"]
    (tmp_path / "photos").rename(tmp_path / "images")
    assert source("coco", place).sizes == {"all": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n", "cannot read this COCO file; received: {place} (Expecting value: line 1 column 1 (char 0)); "),
        (
            '{"images": [',
            "cannot read this COCO file; received: {place} (Expecting value: line 1 column 13 (char 12)); ",
        ),
        ("[1]", "not a COCO file; received: {place}; allowed: one JSON object with the lists images, annotations, "),
        ('{"images": [], "info": {}}', "not a COCO file; received: {place}, with images, info; allowed: "),
        ("\x00\xff", "cannot read this COCO file; received: {place} ("),
        ('{"images": [], "annotations": [], "categories": []}', "this COCO file lists no pictures; received: {place}"),
    ],
)
def test_files_that_are_none(tmp_path, text, said):
    """A table, a file that was cut off, another JSON."""
    place = tmp_path / "all.json"
    place.write_text(text, encoding="latin-1")
    assert complaint(source, "coco", place).startswith(said.format(place=place))


def test_files_that_are_not_there_or_too_many(tmp_path):
    """Each says what to do."""
    assert (
        complaint(source, "coco", tmp_path / "gone.json") == f"no such file or folder; received: {tmp_path}/gone.json"
    )
    todo = "say coco('train.json', val='val.json', test='test.json')"
    assert complaint(source, "coco", tmp_path) == f"no COCO file in this folder; received: {tmp_path}; {todo}"
    for name in ("one.json", "two.json"):
        coco_file(tmp_path / name, [])
    said = f"which of these files is which split?; received: one.json, two.json; {todo}"
    assert complaint(source, "coco", tmp_path) == said


def test_a_run_lists_what_is_wrong(tmp_path):
    """Annotations in the notes of the report, a picture that is not there among those that cannot be read."""
    images = [{"id": number, "file_name": f"{number}.png", "width": 14, "height": 10} for number in range(30)]
    outline = [[2, 1, 12, 1, 12, 6, 2, 6]]
    found = [annotation(category=(1, 90)[number % 2], image=number, segmentation=outline) for number in range(28)]
    place = coco_file(tmp_path / "all.json", [*found, annotation(image=99)], images)
    for number in range(30):
        any_picture(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").unlink()
    options = {"backbone": "convnet(size=64, channels=3, widths=(8, 8, 8, 8, 8, 8))", "augment": "flip()"}
    for data, head, column, names in (
        (place, "detect()", "objects", ("cat", "dog")),
        (f"coco({str(place)!r}, masks=True)", "segment()", "mask", ("background", "cat", "dog")),
    ):
        loaded = load(data, heads=head, **options)
        assert loaded.labels[column].names == names
        assert loaded.table.errors == [(str(tmp_path / "3.png"), "No such file or directory")]
        assert loaded.table.warnings[0] == "annotations of a picture that is not listed, left out: 1 (image 99)"
        assert (loaded.table.split != "").sum() == 29


def test_recognized(tmp_path):
    """A COCO file on one line or on many, and a table of JSON lines, which may have a column called images."""
    place = coco_file(tmp_path / "all.json", [annotation()])
    assert infer_source(str(place)).name == "coco"
    place.write_text(json.dumps({"info": {}, **json.loads(place.read_text())}, indent=1))
    assert infer_source(str(place)).name == "coco"
    place.write_text('{"path": "a.png", "images": [1]}\n{"path": "b.png", "images": [2]}\n')
    assert infer_source(str(place)).name == "table"
