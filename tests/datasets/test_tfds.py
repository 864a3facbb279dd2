"""TensorFlow Datasets, with data sets that TFDS prepares here."""

import io
import wave

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import SMALL_FLAGS, get_error, run_in_process
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
    """The version is the default or a number; splits and the order of classes are those of TFDS."""
    data = source("shapes", data_dir=data_dir)
    assert (data.name, data.paths, data.labels) == ("shapes_1.0.0", (), ("square", "circle", "hexagon"))
    assert data.sizes == {"train": 40, "val": 6, "test": 9}
    other = source("shapes:2.0.0", data_dir=data_dir)
    assert (other.name, other.sizes["train"]) == ("shapes_2.0.0", 20)
    assert sorted(column(data, "test")) == [b"circle"] * 3 + [b"hexagon"] * 3 + [b"square"] * 3


def test_a_prepared_folder_needs_no_name(data_dir):
    """--data=~/tensorflow_datasets/mnist/3.0.1 reads a prepared folder."""
    data = SOURCES.build(infer_source(f"{data_dir}/shapes/2.0.0"))
    assert (data.name, data.sizes) == ("shapes_2.0.0", {"train": 20, "val": 6, "test": 9})


def test_images_stay_encoded_and_match_their_labels(data_dir):
    """Images are the stored bytes, so that nothing is decoded twice."""
    data = source("shapes", data_dir=data_dir, label="count")
    for sample in data.read("train").as_numpy_iterator():
        assert tf.io.decode_png(sample["image"]).shape == (6, 8, 3)
    names, numbers = column(source("shapes", data_dir=data_dir), "train"), column(data, "train")
    assert set(zip(names, numbers, strict=True)) == {(b"square", b"0"), (b"circle", b"1"), (b"hexagon", b"2")}
    assert data.labels == ()


def test_parts_of_splits(data_dir):
    """Splits have the notation of TFDS; an empty name leaves a split to be cut."""
    data = source("shapes", data_dir=data_dir, train="train[:80%]", val="", test="train[80%:]+test[:2]")
    assert data.sizes == {"train": 32, "test": 10}
    all_images = column(source("shapes", data_dir=data_dir), "train", "image")
    assert column(data, "train", "image") == all_images[:32]
    assert column(data, "test", "image")[:8] == all_images[32:]
    assert column(data, "train", "file")[31] == b"shapes_1.0.0/train[:80%]/31"


def test_other_features(data_dir):
    """Sequences of classes are several labels; a text may be a label; images may be pixels."""
    tags = source("shapes", data_dir=data_dir, label="tags")
    assert tags.labels == ("big", "red")
    assert set(column(tags, "train")) == {b"big", b"big\nred", b""}
    pixels = source("shapes", data_dir=data_dir, image="pixels", label="caption")
    assert set(column(pixels, "test")) == {b"shape 0", b"shape 1", b"shape 2"}
    assert pixels.read("test").element_spec["image"] == tf.TensorSpec((4, 4, 1), tf.uint8)


def test_waveforms_and_texts(data_dir):
    """A text is unchanged; a waveform becomes a WAV file with the same samples and rate."""
    data = source("shapes", data_dir=data_dir, image="", audio="noise", text="caption")
    assert set(data.read("test").element_spec) == {"audio", "text", "label", "file"}
    for sample in data.read("test").as_numpy_iterator():
        assert sample["text"].decode().startswith("shape ")
        with wave.open(io.BytesIO(sample["audio"])) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
            assert np.frombuffer(file.readframes(100), np.int16).tolist() == [-32768, -1, 0, 1, 32767]


def test_unpublished_classes_are_empty_labels(data_dir):
    """Test splits of competitions have the class -1."""
    assert set(column(source("shapes", data_dir=data_dir, test="unlabeled"), "test")) == {b""}


def test_objects(data_dir):
    """Boxes are converted with their crowd flags; boxes without area are left to the survey."""
    data = source("shapes", data_dir=data_dir, objects="things")
    assert data.labels == ("cat", "dog")
    assert set(data.read("test").element_spec) == {"image", "objects", "file"}
    texts = [parse_objects(text.decode()) for text in column(data, "train", "objects")]
    dog = Object("dog", 0.1, 0.25, 0.6, 0.75)
    # A third of the samples has no box, a third one box, a third also one without area; every other box is a crowd.
    assert len(texts) == 40
    assert sorted(map(len, texts)) == [0] * 14 + [1] * 13 + [2] * 13
    assert {text[0] for text in texts if text} == {dog, dog._replace(crowd=True)}
    assert {text[1] for text in texts if len(text) > 1} == {Object("cat", 0.5, 0.5, 0.6, 0.5)}


def test_boxes_without_area_are_counted(data_dir, tmp_path):
    """Boxes without area are left out, and their images are used."""
    data = f"--data=tfds('shapes', data_dir='{data_dir}', objects='things')"
    result = run_in_process("data", data, "--heads=detect()", "--backbone=", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "boxes without area, left out: 18 (shapes_1.0.0/train/" in result.stderr
    assert "cannot be read" not in result.stderr


def test_a_test_split_without_annotations(data_dir, tmp_path):
    """A test split without annotations is refused before training."""
    options = f"data_dir='{data_dir}', objects='things', train='train[:50%]', test='train[0:1]'"
    message = get_error(
        "train", f"--data=tfds('shapes', {options})", "--heads=detect()", f"--workdir={tmp_path}", *SMALL_FLAGS
    )
    assert "The test split has no annotations for objects: 1 images of shapes_1.0.0 without objects. " in message


def test_objects_replace_the_label(tmp_path):
    """Boxes are read instead of the label if the data has the feature of COCO and VOC, unless objects=''."""
    Scenes(data_dir=tmp_path).download_and_prepare()
    data = source("scenes", data_dir=str(tmp_path))
    assert (data.labels, data.sizes) == (("big cat", "dog"), {"train": 2})
    assert column(data, "train", "objects") == [b"big cat\t0.100000\t0.200000\t0.300000\t0.400000\t1"] * 2
    labeled = source("scenes", data_dir=str(tmp_path), objects="")
    assert (labeled.labels, column(labeled, "train")) == (("indoor", "outdoor"), [b"outdoor"] * 2)


def test_masks(data_dir):
    """Masks are PNG bytes, shifted if necessary; class names are those of the data or of the option."""
    unshifted = source("shapes", data_dir=data_dir, mask="classes")
    assert unshifted.labels == ("nothing", "something")
    assert set(unshifted.read("test").element_spec) == {"image", "mask", "file"}
    assert {int(tf.io.decode_png(mask)[0, 0, 0]) for mask in column(unshifted, "train", "mask")} == {0, 1}
    names = ("pet", "background", "border")
    shifted = source("shapes", data_dir=data_dir, mask="mask", classes=names, shift=-1)
    assert shifted.labels == names
    decoded = [tf.io.decode_png(mask) for mask in column(shifted, "train", "mask")]
    assert {tuple(mask.shape) for mask in decoded} == {(6, 8, 1)}
    assert {int(mask[0, 0, 0]) for mask in decoded} == {0, 1, 2}
    # Values that are not a class after the shift are ignored.
    shifted_more = source("shapes", data_dir=data_dir, mask="mask", classes=names, shift=-2)
    assert {int(tf.io.decode_png(mask)[5, 7, 0]) for mask in column(shifted_more, "train", "mask")} == {255, 0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": "trian"},
            "shapes has no such split, or the split is empty: trian. Expected: test, train, unlabeled, ",
        ),
        ({"val": "valid"}, "shapes has no such split, or the split is empty: valid. "),
        ({"test": "tset"}, "shapes has no such split, or the split is empty: tset. "),
        ({"train": "train[80%:20%]"}, "shapes has no such split, or the split is empty: train[80%:20%]. "),
        ({"train": "train[:80"}, "shapes has no such split, or the split is empty: train[:80. "),
        ({"label": "lable"}, "shapes has no such feature: lable. Expected: caption, classes, count, image, "),
        ({"image": "picture"}, "shapes has no such feature: picture. "),
        ({"mask": "msk"}, "shapes has no such feature: msk. "),
        ({"objects": "object"}, "shapes has no such feature: object. "),
        (
            {"mask": "mask"},
            "The class names of the mask are missing or not unique: mask. Add classes=('sky', 'road', ...), ",
        ),
        ({"mask": "image", "classes": ("a",)}, "The feature is not a mask: image. "),
        ({"objects": "tags"}, "The feature has no boxes with classes: tags. "),
        ({"text": "txt"}, "shapes has no such feature: txt. "),
        ({"image": ""}, "shapes has no feature of a modality: caption, "),
    ],
)
def test_invalid_options(data_dir, options, message):
    """A misspelled split or feature is refused."""
    assert complaint(lambda: source("shapes", data_dir=data_dir, **options)).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnsit", "TFDS has no such data set: mnsit. Did you mean mnist?"),
        (
            "zzzz_qqqq",
            "TFDS has no such data set: zzzz_qqqq. Name the folder of a prepared data set by data_dir=.",
        ),
        ("shapes:9.9.9", "TFDS cannot open the data set: shapes:9.9.9 ("),
        (
            "a bad name!",
            "TFDS cannot open the data set: a bad name! (Parsing builder name string a bad name!",
        ),
    ],
)
def test_unknown_names(data_dir, name, message):
    """An unknown data set, an unknown version and an invalid name are refused."""
    assert complaint(lambda: source(name, data_dir=data_dir)).startswith(message)
