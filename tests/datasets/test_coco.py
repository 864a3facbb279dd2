"""COCO's format: golden boxes and masks, by hand and by pycocotools, and imperfect files."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.annotated_data import (
    build_coco_source,
    build_source,
    make_annotation,
    read_masks,
    read_objects,
    write_coco_file,
    write_image,
)
from tests.helpers.small_data import complaint, load
from tests.helpers.small_data import picture as write_random_image
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.ops.objects import Object

pytestmark = pytest.mark.usefixtures("empty_cache")

CAT = Object("cat", 0.1, 0.1, 0.6, 0.6)
TWO = [
    {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
    {"id": 8, "file_name": "b.png", "width": 20, "height": 10},
]


def test_boxes(tmp_path):
    """Boxes become fractions; classes are in the order of their ids, which have gaps; crowds are marked."""
    source = build_coco_source(tmp_path, make_annotation(), make_annotation([0, 0, 20, 10], 90, iscrowd=1))
    assert (source.name, source.labels, source.paths, source.sizes) == ("all", ("cat", "dog"), ("image",), {"all": 1})
    assert read_objects(source) == {"a.png": [CAT, Object("dog", 0, 0, 1, 1, True)]}
    assert source.warnings == ()


def test_images_without_annotations_are_kept(tmp_path):
    """An image without annotations is a sample without objects."""
    source = build_source("coco", write_coco_file(tmp_path / "all.json", [make_annotation()], TWO))
    assert read_objects(source) == {"a.png": [CAT], "b.png": []}
    assert source.warnings == ()


@pytest.mark.parametrize(
    ("invalid", "expected", "issue"),
    [
        (
            make_annotation([15, 5, 10, 10]),
            [Object("cat", 0.75, 0.5, 1, 1)],
            "boxes beyond the image edge, clipped",
        ),
        (make_annotation([30, 5, 10, 10]), [], "boxes outside the image, left out"),
        (make_annotation([5, 5, 0, 5]), [], "boxes without area, left out"),
        (make_annotation([12, 6, -10, -5]), [CAT], "boxes with swapped corners, repaired"),
        (make_annotation([float("nan"), 5, 1, 1]), [], "boxes with coordinates that are not finite, left out"),
        (
            make_annotation([0.1, 0.1, 0.5, 0.5]),
            [],
            "boxes within the first pixel, perhaps fractions of the image, left out",
        ),
        (make_annotation([1, 2, 3]), [], "annotations without a box or a segmentation, left out"),
        (make_annotation(None), [], "annotations without a box or a segmentation, left out"),
    ],
)
def test_invalid_boxes(tmp_path, capsys, invalid, expected, issue):
    """Invalid boxes are repaired or left out, counted, and reported with their file; valid boxes stay."""
    valid = make_annotation([0, 0, 20, 10], 90)
    source = build_coco_source(tmp_path, valid, invalid)
    assert read_objects(source) == {"a.png": [Object("dog", 0, 0, 1, 1), *expected]}
    assert source.warnings == (f"{issue}: 1 (a.png)",)
    assert source.warnings[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("invalid", "issue"),
    [
        (make_annotation(category=2), "annotations of an unknown category, left out: 1 (a.png: 2)"),
        (make_annotation(category=[1]), "annotations of an unknown category, left out: 1 (a.png: [1])"),
        (make_annotation(image=9), "annotations of an unlisted image, left out: 1 (image 9)"),
        ("no object", "annotations of an unlisted image, left out: 1 (all.json)"),
        (make_annotation([0, 0, 20, 10], 90), "duplicate annotations, left out: 1 (a.png)"),
    ],
)
def test_annotations_without_an_image_or_a_category(tmp_path, invalid, issue):
    """They are counted and reported with the unknown id."""
    source = build_coco_source(tmp_path, make_annotation([0, 0, 20, 10], 90), invalid)
    assert read_objects(source) == {"a.png": [Object("dog", 0, 0, 1, 1)]}
    assert source.warnings == (issue,)


def test_fractions_instead_of_pixels(tmp_path):
    """If no box exceeds the first pixel, all boxes are fractions, which is reported; polygons too if they are."""
    polygons = [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6, 0.1, 0.6]]
    source = build_coco_source(tmp_path, make_annotation([0.1, 0.1, 0.5, 0.5], segmentation=polygons), masks=True)
    assert read_objects(source) == {"a.png": [CAT]}
    assert source.warnings == (
        f"boxes as fractions of the image instead of pixels, read as fractions: 1 ({tmp_path.name})",
    )
    expected = np.zeros((10, 20))
    expected[1:6, 2:12] = 1
    np.testing.assert_array_equal(read_masks(source)["a.png"], expected)


def test_duplicate_ids(tmp_path):
    """Images with the same id are left out; one image with two ids is one sample."""
    images = [*TWO, {"id": 8, "file_name": "c.png"}, {"id": 9, "file_name": "a.png"}, {"file_name": "d.png"}]
    annotations = [make_annotation(id=1), make_annotation([0, 0, 20, 10], 90, 9, id=1), make_annotation(image=8)]
    source = build_source("coco", write_coco_file(tmp_path / "all.json", annotations, images))
    assert read_objects(source) == {"a.png": [CAT, Object("dog", 0, 0, 1, 1)]}
    assert source.warnings == (
        "images with a duplicate id, all left out with their annotations: 1 (c.png)",
        "images that are listed twice, merged: 1 (a.png)",
        "images without an id or a file name, left out: 1 (all.json)",
        "annotations with a duplicate id, kept: 1 (a.png)",
        "annotations of an unlisted image, left out: 1 (image 8)",
    )


def test_categories(tmp_path):
    """Two ids with one name are one class; one id with two names is an error."""
    categories = [
        {"id": 3, "name": "cat"},
        {"id": 1, "name": " big\tcat "},
        {"id": 2, "name": "cat"},
        {"id": 5},
        {"name": "x"},
    ]
    source = build_source(
        "coco", write_coco_file(tmp_path / "all.json", [make_annotation(category=3)], categories=categories)
    )
    assert source.labels == ("big cat", "cat", "5")
    assert source.warnings == (
        "categories without an id, left out: 1 (all.json)",
        "categories with the same name, merged: 1 (cat)",
    )
    conflicting = write_coco_file(
        tmp_path / "conflicting.json", [], categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]
    )
    assert complaint(build_source, "coco", conflicting) == (
        f"A category id has two names: {conflicting}: 1 is cat and dog. Give each category its own id."
    )


def test_sizes(tmp_path):
    """A missing size is read from the image; a resized image keeps its boxes; another aspect ratio is reported."""
    images = [
        {"id": 1, "file_name": "missing.png"},
        {"id": 2, "file_name": "resized.png"},
        {"id": 3, "file_name": "other.png"},
    ]
    path = write_coco_file(tmp_path / "all.json", [], images)
    images[1] |= {"width": 200, "height": 100}
    images[2] |= {"width": 20, "height": 20}
    annotations = [make_annotation(image=1), make_annotation([20, 10, 100, 50], image=2), make_annotation(image=3)]
    content = json.loads(path.read_text()) | {"images": images, "annotations": annotations}
    path.write_text(json.dumps(content))
    source = build_source("coco", path)
    assert read_objects(source) == {
        "missing.png": [CAT],
        "resized.png": [CAT],
        "other.png": [Object("cat", 0.1, 0.05, 0.6, 0.3)],
    }
    issue = "images whose aspect ratio differs from their annotations"
    assert source.warnings == (f"{issue}: 1 ({tmp_path / 'other.png'})",)


@pytest.mark.parametrize("size", [(0, 10), (-20, 10), (float("nan"), 10), (20, float("inf")), (1e30, 10), (0.2, 0.1)])
def test_impossible_sizes(tmp_path, size):
    """Impossible sizes are replaced by the size of the image, without allocating memory for them."""
    path = write_coco_file(tmp_path / "all.json", [make_annotation(segmentation=[[2, 1, 12, 1, 12, 6, 2, 6]])])
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": size[0], "height": size[1]}
    path.write_text(json.dumps(content))
    source = build_source("coco", path, masks=True)
    assert read_objects(source) == {"a.png": [CAT]}
    assert read_masks(source)["a.png"].shape == (10, 20)
    issue = "impossible image sizes, replaced by the size of the image file"
    assert source.warnings == (f"{issue}: 1 ({tmp_path / 'a.png'})",)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_orientations(tmp_path, orientation):
    """If the stated size is that of the stored image, boxes and masks are rotated as Pillow rotates the image."""
    polygons = [[2, 1, 6, 1, 6, 9, 2, 9]]
    path = write_coco_file(tmp_path / "all.json", [make_annotation([2, 1, 4, 8], segmentation=polygons)])
    write_image(tmp_path / "a.png", orientation=orientation)
    source = build_source("coco", path, masks=True)
    stored = np.zeros((10, 20), np.uint8)
    stored[1:9, 2:6] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "stored.png", exif=exif)
    upright = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "stored.png")))
    np.testing.assert_array_equal(read_masks(source)["a.png"], upright)
    y, x = np.nonzero(upright)
    edges = x.min() / 10, y.min() / 20, (x.max() + 1) / 10, (y.max() + 1) / 20
    np.testing.assert_allclose(read_objects(source)["a.png"][0][1:5], edges, atol=1e-6)
    assert source.warnings == (
        f"images annotated without their EXIF rotation, annotations rotated: 1 ({tmp_path / 'a.png'})",
    )


def test_splits(tmp_path):
    """Splits are given as files, or by the names of files or folders; their classes are merged."""
    for name in ("instances_train2017", "instances_val2017"):
        (tmp_path / "coco" / "annotations").mkdir(parents=True, exist_ok=True)
        image = [{"id": 7, "file_name": f"{name}.png", "width": 20, "height": 10}]
        path = write_coco_file(tmp_path / "coco" / "annotations" / f"{name}.json", [make_annotation()], image)
        target = tmp_path / "coco" / name.removeprefix("instances_") / f"{name}.png"
        target.parent.mkdir()
        (path.parent / f"{name}.png").rename(target)
    (tmp_path / "coco" / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    source = build_source("coco", tmp_path / "coco")
    assert (source.name, source.sizes) == ("coco", {"train": 1, "val": 1})
    assert read_objects(source, "val") == {"instances_val2017.png": [CAT]}
    assert infer_source(str(tmp_path / "coco")).name == "coco"
    annotations = tmp_path / "coco" / "annotations"
    train, test = annotations / "instances_train2017.json", annotations / "instances_val2017.json"
    assert build_source("coco", train, test=str(test)).sizes == {"train": 1, "test": 1}
    for name in ("train", "valid"):
        (tmp_path / "export" / name).mkdir(parents=True)
        categories = [{"id": 4, "name": "cow"}] if name == "valid" else [{"id": 1, "name": "cat"}]
        write_coco_file(tmp_path / "export" / name / "_annotations.coco.json", [], categories=categories)
    export = build_source("coco", tmp_path / "export")
    assert (export.sizes, export.labels) == ({"train": 1, "val": 1}, ("cat", "cow"))


def test_images_in_another_folder(tmp_path):
    """Images are searched near the file or in the given folder; the survey reports missing images."""
    images = [*TWO, {"id": 9, "file_name": "gone.png", "width": 20, "height": 10}]
    path = write_coco_file(tmp_path / "all.json", [make_annotation()], images)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").rename(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "gone.png").unlink()
    assert complaint(build_source, "coco", path) == (
        f"None of the images is found: {path} lists a.png, ... Expected: {tmp_path}, {tmp_path.parent}. "
        "Add images='FOLDER'."
    )
    source = build_source("coco", path, str(tmp_path / "photos"))
    assert list(read_objects(source)) == ["a.png", "b.png", "gone.png"]
    (tmp_path / "photos").rename(tmp_path / "images")
    assert build_source("coco", path).sizes == {"all": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "Cannot read the COCO file: {path} (Expecting value: line 1 column 1 (char 0)). "),
        (
            '{"images": [',
            "Cannot read the COCO file: {path} (Expecting value: line 1 column 13 (char 12)). ",
        ),
        ("[1]", "Not a COCO file: {path}. Expected: a JSON object with the lists images, annotations, "),
        ('{"images": [], "info": {}}', "Not a COCO file: {path}, with images, info. Expected: "),
        ("\x00\xff", "Cannot read the COCO file: {path} ("),
        ('{"images": [], "annotations": [], "categories": []}', "The COCO file lists no images: {path}"),
    ],
)
def test_other_files(tmp_path, text, message):
    """A table, a truncated file and another JSON file are refused."""
    path = tmp_path / "all.json"
    path.write_text(text, encoding="latin-1")
    assert complaint(build_source, "coco", path).startswith(message.format(path=path))


def test_missing_files_and_unknown_splits(tmp_path):
    """Each message says what to do."""
    assert complaint(build_source, "coco", tmp_path / "gone.json") == f"No such file or folder: {tmp_path}/gone.json."
    hint = "Write coco('train.json', val='val.json', test='test.json')."
    message = complaint(build_source, "coco", tmp_path)
    assert message == f"The folder has no file in COCO's format: {tmp_path}. {hint}"
    for name in ("one.json", "two.json"):
        write_coco_file(tmp_path / name, [])
    message = complaint(build_source, "coco", tmp_path)
    assert message == f"The names of COCO files do not tell their splits: one.json, two.json. {hint}"


def test_a_run_lists_issues(tmp_path):
    """Annotation issues are warnings of the table; a missing image is listed as unreadable."""
    images = [{"id": number, "file_name": f"{number}.png", "width": 14, "height": 10} for number in range(30)]
    polygons = [[2, 1, 12, 1, 12, 6, 2, 6]]
    annotations = [
        make_annotation(category=(1, 90)[number % 2], image=number, segmentation=polygons) for number in range(28)
    ]
    path = write_coco_file(tmp_path / "all.json", [*annotations, make_annotation(image=99)], images)
    for number in range(30):
        write_random_image(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").unlink()
    options = {"backbone": "convnet(size=64, channels=3, widths=(8, 8, 8, 8, 8, 8))", "augment": "flip()"}
    for data, head, column, names in (
        (path, "detect()", "objects", ("cat", "dog")),
        (f"coco({str(path)!r}, masks=True)", "segment()", "mask", ("background", "cat", "dog")),
    ):
        loaded = load(data, heads=head, **options)
        assert loaded.labels[column].names == names
        assert loaded.table.errors == [(str(tmp_path / "3.png"), "No such file or directory")]
        assert loaded.table.warnings[0] == "annotations of an unlisted image, left out: 1 (image 99)"
        assert (loaded.table.split != "").sum() == 29


def test_format_is_inferred(tmp_path):
    """A COCO file may have one line or many; a table of JSON lines may have a column called images."""
    path = write_coco_file(tmp_path / "all.json", [make_annotation()])
    assert infer_source(str(path)).name == "coco"
    path.write_text(json.dumps({"info": {}, **json.loads(path.read_text())}, indent=1))
    assert infer_source(str(path)).name == "coco"
    path.write_text('{"path": "a.png", "images": [1]}\n{"path": "b.png", "images": [2]}\n')
    assert infer_source(str(path)).name == "table"
