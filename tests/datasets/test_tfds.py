"""TFDS: a data set that is prepared here, by TFDS itself."""

import io
import wave

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import SMALL, refused, within
from tests.helpers.shapes_dataset import Scenes, prepare
from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import Spec
from tfx_finetune.datasets.sources.infer_source import infer_source
from tfx_finetune.ops.objects import Object, parse_objects
from tfx_finetune.types.components import SOURCES


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(prepare(tmp_path_factory.mktemp("tfds")))


def source(name, **options):
    return SOURCES.build(Spec("tfds", (name,), options))


def column(source, part, name="label"):
    return [sample[name] for sample in source.read(part).as_numpy_iterator()]


def test_name_version_and_splits(data_dir):
    """The usual version by default, another one by its number; TFDS's own splits, its own order of classes."""
    found = source("shapes", data_dir=data_dir)
    assert (found.name, found.paths, found.labels) == ("shapes_1.0.0", (), ("square", "circle", "hexagon"))
    assert found.sizes == {"train": 40, "val": 6, "test": 9}
    other = source("shapes:2.0.0", data_dir=data_dir)
    assert (other.name, other.sizes["train"]) == ("shapes_2.0.0", 20)
    assert sorted(column(found, "test")) == [b"circle"] * 3 + [b"hexagon"] * 3 + [b"square"] * 3


def test_a_prepared_folder_needs_no_name(data_dir):
    """--data=~/tensorflow_datasets/mnist/3.0.1."""
    found = SOURCES.build(infer_source(f"{data_dir}/shapes/2.0.0"))
    assert (found.name, found.sizes) == ("shapes_2.0.0", {"train": 20, "val": 6, "test": 9})


def test_pictures_stay_encoded_and_match_their_labels(data_dir):
    """What the modality gets is the file as it is stored; nothing is decoded twice."""
    found = source("shapes", data_dir=data_dir, label="count")
    for sample in found.read("train").as_numpy_iterator():
        assert tf.io.decode_png(sample["image"]).shape == (6, 8, 3)
    names, numbers = column(source("shapes", data_dir=data_dir), "train"), column(found, "train")
    assert set(zip(names, numbers, strict=True)) == {(b"square", b"0"), (b"circle", b"1"), (b"hexagon", b"2")}
    assert found.labels == ()


def test_parts_of_splits(data_dir):
    """TFDS's notation: shares, sums, parts that do not overlap; an empty name leaves a split to be carved out."""
    found = source("shapes", data_dir=data_dir, train="train[:80%]", val="", test="train[80%:]+test[:2]")
    assert found.sizes == {"train": 32, "test": 10}
    whole = column(source("shapes", data_dir=data_dir), "train", "image")
    assert column(found, "train", "image") == whole[:32]
    assert column(found, "test", "image")[:8] == whole[32:]
    assert column(found, "train", "file")[31] == b"shapes_1.0.0/train[:80%]/31"


def test_other_features(data_dir):
    """Sequences of classes are tags; text is a label as it stands; pixels need no decoding."""
    tags = source("shapes", data_dir=data_dir, label="tags")
    assert tags.labels == ("big", "red")
    assert set(column(tags, "train")) == {b"big", b"big\nred", b""}
    pixels = source("shapes", data_dir=data_dir, image="pixels", label="caption")
    assert set(column(pixels, "test")) == {b"shape 0", b"shape 1", b"shape 2"}
    assert pixels.read("test").element_spec["image"] == tf.TensorSpec((4, 4, 1), tf.uint8)


def test_sounds_and_texts(data_dir):
    """A text stays as it is; the numbers of a sound become a WAV file of the same numbers, with its rate."""
    found = source("shapes", data_dir=data_dir, image="", audio="noise", text="caption")
    assert set(found.read("test").element_spec) == {"audio", "text", "label", "file"}
    for sample in found.read("test").as_numpy_iterator():
        assert sample["text"].decode().startswith("shape ")
        with wave.open(io.BytesIO(sample["audio"])) as opened:
            assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (8000, 1, 2)
            assert np.frombuffer(opened.readframes(100), np.int16).tolist() == [-32768, -1, 0, 1, 32767]


def test_unpublished_classes_are_no_label(data_dir):
    """Test splits of competitions have the class -1."""
    assert set(column(source("shapes", data_dir=data_dir, test="unlabelled"), "test")) == {b""}


def test_objects(data_dir):
    """Top, left, bottom and right become left, top, right and bottom; crowds; what has no area is for the survey."""
    found = source("shapes", data_dir=data_dir, objects="things")
    assert found.labels == ("cat", "dog")
    assert set(found.read("test").element_spec) == {"image", "objects", "file"}
    texts = [parse_objects(text.decode()) for text in column(found, "train", "objects")]
    dog = Object("dog", 0.1, 0.25, 0.6, 0.75)
    # A third of the samples has none, a third one, a third that and one without area; every other one is a crowd.
    assert len(texts) == 40
    assert sorted(map(len, texts)) == [0] * 14 + [1] * 13 + [2] * 13
    assert {text[0] for text in texts if text} == {dog, dog._replace(crowd=True)}
    assert {text[1] for text in texts if len(text) > 1} == {Object("cat", 0.5, 0.5, 0.6, 0.5)}


def test_boxes_without_area_are_counted(data_dir, tmp_path):
    """Their pictures are used, with what else is in them."""
    data = f"--data=tfds('shapes', data_dir='{data_dir}', objects='things')"
    done = within("data", data, "--heads=detect()", "--backbone=", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "boxes without area, left out: 18 (shapes_1.0.0/train/" in done.stderr
    assert "cannot be read" not in done.stderr


def test_a_test_split_in_which_nothing_is_annotated(data_dir, tmp_path):
    """Competitions publish none: it is said before anything is learned, and no score is made up."""
    options = f"data_dir='{data_dir}', objects='things', train='train[:50%]', test='train[0:1]'"
    said = refused("train", f"--data=tfds('shapes', {options})", "--heads=detect()", f"--workdir={tmp_path}", *SMALL)
    assert "nothing to test objects on; received: 1 pictures of shapes_1.0.0 without objects" in said


def test_objects_come_in_place_of_a_label(tmp_path):
    """Where the data has the feature that COCO and VOC have; the label comes where that is left out."""
    Scenes(data_dir=tmp_path).download_and_prepare()
    found = source("scenes", data_dir=str(tmp_path))
    assert (found.labels, found.sizes) == (("big cat", "dog"), {"train": 2})
    assert column(found, "train", "objects") == [b"big cat\t0.100000\t0.200000\t0.300000\t0.400000\t1"] * 2
    labelled = source("scenes", data_dir=str(tmp_path), objects="")
    assert (labelled.labels, column(labelled, "train")) == (("indoor", "outdoor"), [b"outdoor"] * 2)


def test_masks(data_dir):
    """PNG bytes as they are, or moved to count from 0; the names of the values are the data's or said."""
    own = source("shapes", data_dir=data_dir, mask="classes")
    assert own.labels == ("nothing", "something")
    assert set(own.read("test").element_spec) == {"image", "mask", "file"}
    assert {int(tf.io.decode_png(mask)[0, 0, 0]) for mask in column(own, "train", "mask")} == {0, 1}
    names = ("pet", "background", "border")
    moved = source("shapes", data_dir=data_dir, mask="mask", classes=names, shift=-1)
    assert moved.labels == names
    decoded = [tf.io.decode_png(mask) for mask in column(moved, "train", "mask")]
    assert {tuple(mask.shape) for mask in decoded} == {(6, 8, 1)}
    assert {int(mask[0, 0, 0]) for mask in decoded} == {0, 1, 2}
    # What is no class any more is untold.
    more = source("shapes", data_dir=data_dir, mask="mask", classes=names, shift=-2)
    assert {int(tf.io.decode_png(mask)[5, 7, 0]) for mask in column(more, "train", "mask")} == {255, 0, 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"train": "trian"},
            "shapes has no such split, or it is empty; received: trian; allowed: test, train, unlabelled, ",
        ),
        ({"val": "valid"}, "shapes has no such split, or it is empty; received: valid; "),
        ({"test": "tset"}, "shapes has no such split, or it is empty; received: tset; "),
        ({"train": "train[80%:20%]"}, "shapes has no such split, or it is empty; received: train[80%:20%]; "),
        ({"train": "train[:80"}, "shapes has no such split, or it is empty; received: train[:80; "),
        ({"label": "lable"}, "shapes has no such feature; received: lable; allowed: caption, classes, count, image, "),
        ({"image": "picture"}, "shapes has no such feature; received: picture; "),
        ({"mask": "msk"}, "shapes has no such feature; received: msk; "),
        ({"objects": "object"}, "shapes has no such feature; received: object; "),
        ({"mask": "mask"}, "nobody says the classes of this mask; received: mask; say classes=('sky', 'road', ...), "),
        ({"mask": "image", "classes": ("a",)}, "this feature is no mask; received: image; "),
        ({"objects": "tags"}, "this feature has no boxes with classes; received: tags; "),
        ({"text": "txt"}, "shapes has no such feature; received: txt; "),
        ({"image": ""}, "shapes has no feature of a modality; received: ['caption', "),
    ],
)
def test_wrong_options(data_dir, options, said):
    """A typo in a split must not end in a split that is carved out in silence."""
    assert complaint(lambda: source("shapes", data_dir=data_dir, **options)).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnsit", "TFDS has no such data set; received: mnsit; did you mean mnist?"),
        (
            "zzzz_qqqq",
            "TFDS has no such data set; received: zzzz_qqqq; data_dir= names a folder where it lies prepared",
        ),
        ("shapes:9.9.9", "TFDS cannot give this data set; received: shapes:9.9.9 ("),
        (
            "a bad name!",
            "TFDS cannot give this data set; received: a bad name! (Parsing builder name string a bad name!",
        ),
    ],
)
def test_unknown_names(data_dir, name, said):
    """No data set, no version of it, no name at all."""
    assert complaint(lambda: source(name, data_dir=data_dir)).startswith(said)
