"""Detection: targets, decoding, what is read and drawn, and that it learns."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.ops.objects import Object, format_objects
from tfx_finetune.tasks import dense_head
from tfx_finetune.tasks.detect import detect
from tfx_finetune.types.components import BACKBONES, Features
from tfx_finetune.types.localization import Letterbox
from tfx_finetune.types.task import ClassLabels

LABELS = ClassLabels(("ägg", "猫", "🦊"), (6, 3, 1), 10)
TWO = ClassLabels(("a", "b"), (8, 8), 16)
RNG = np.random.default_rng(0)
SIDE, PLACES = 64, 64 + 16 + 4
LAY = Letterbox(tf.ones(2), tf.zeros(2), 200)


def rows(*given, most=5):
    """A target (1, most, 6) of boxes, class and kind."""
    found = np.zeros((1, most, 6), np.float32)
    for at, row in enumerate(given):
        found[0, at] = row
    return found


def logits(*sure, classes=3, low=-20.0):
    """(1, 84, classes + 4) of nothing but, at some places, a class with its logit and distances in strides."""
    found = np.zeros((1, PLACES, classes + 4), np.float32)
    found[..., :classes] = low
    for place, label, value, far in sure:
        found[0, place, label] = value
        found[0, place, classes:] = far
    return found


# ---- targets


def target(text, size=(100, 200), lay=LAY, **options):
    places = detect(LABELS, **options).localization
    return places.encode(places.read_annotations(tf.constant(text), tf.constant(size)), tf.constant(size), lay).numpy()


def test_objects_come_to_pixels_of_the_prepared_picture():
    """A picture of 100 x 200 in a square of 64: 32 x 64 with 16 above; crowds come last, large ones first."""
    text = format_objects(
        [
            Object("猫", 0.5, 0.25, 0.75, 0.5),
            Object("ägg", 0, 0, 1, 1, crowd=True),
            Object("🦊", 0.0, 0.5, 1.0, 1.0),
        ]
    )
    found = target(text, lay=Letterbox(tf.constant([0.32, 0.32]), tf.constant([16.0, 0.0]), 64), max_objects=4)
    np.testing.assert_allclose(
        found, [[0, 32, 64, 48, 2, 1], [32, 24, 48, 32, 1, 1], [0, 16, 64, 48, 0, 2], [0] * 6], atol=1e-4
    )


def test_what_a_crop_leaves_out_is_cut_away():
    """The middle 100 x 100 of 100 x 200, in a square of 50: what is left of it is outside."""
    text = format_objects([Object("ägg", 0.1, 0.2, 0.5, 0.4), Object("ägg", 0.0, 0.0, 0.25, 1.0)])
    found = target(text, lay=Letterbox(tf.constant([0.5, 0.5]), tf.constant([0.0, -25.0]), 50))
    np.testing.assert_allclose(found[:2], [[0, 10, 25, 20, 0, 1], [0] * 6], atol=1e-4)


@pytest.mark.parametrize(
    ("box", "left", "finding"),
    [
        ((0.5, 0, 0.5, 1), None, "boxes without area, left out"),
        ((1.1, 0, 1.2, 1), None, "boxes outside the image, left out"),
        (("nan", 0, 1, 1), None, "boxes with coordinates that are not finite, left out"),
        (("inf", 0, 1, 1), None, "boxes with coordinates that are not finite, left out"),
        ((0.5, 0.25, 0, 0), (0, 0, 32, 16), "boxes with swapped corners, repaired"),
        ((-0.5, 0.25, 0.5, 0.5), (0, 16, 32, 32), "boxes beyond the image edge, clipped"),
        ((0.25, 0.25, 0.25001, 0.5), (16, 16, 17, 32), None),
        ((0.99999, 0.25, 1, 0.5), (63, 16, 64, 32), None),
    ],
)
def test_boxes_that_are_wrong_or_smaller_than_a_pixel(box, left, finding):
    """What the survey says is what learning does, and nothing that is there goes without a word."""
    text = "\t".join(map(str, ("ägg", *box, 0)))
    assert detect(LABELS).localization.check_annotations(text.encode()) == ("ägg" if left else "", "", (finding,) if finding else ())
    rows = target(text, size=(64, 64), lay=Letterbox(tf.ones(2), tf.zeros(2), 64))
    np.testing.assert_allclose(rows[0], (*left, 0, 1) if left else [0] * 6, atol=1e-3)
    assert not rows[1:].any()


def test_pictures_without_objects_have_a_target_too():
    """And objects of classes that the model does not know are none."""
    for text in ("", format_objects([Object("dog", 0, 0, 1, 1)])):
        assert not target(text).any()
        assert target(text).shape == (100, 6)


def test_more_objects_than_there_is_room_for():
    """The largest are kept, as augments may put several pictures into one."""
    text = format_objects([Object("ägg", 0, 0, size, size) for size in (0.1, 0.4, 0.2, 0.3)])
    np.testing.assert_allclose(target(text, max_objects=2)[:, 2], [80, 60], atol=1e-3)


def test_targets_are_made_in_a_pipeline():
    """Of one size, whatever a picture has, so that they can be batched."""
    places = detect(LABELS, max_objects=3).localization
    texts = ["", format_objects([Object("猫", 0, 0, 0.5, 1)])]

    def each(text):
        size = tf.constant([64, 64])
        return places.encode(places.read_annotations(text, size), size, LAY)

    found = np.stack(list(tf.data.Dataset.from_tensor_slices(texts).map(each).as_numpy_iterator()))
    assert found.tolist() == [[[0] * 6] * 3, [[0, 0, 32, 64, 1, 1], [0] * 6, [0] * 6]]


def test_examine_says_which_classes_and_what_is_wrong():
    """The survey counts by it, and leaves out with this reason what cannot be learned."""
    good = [Object("猫", 0.1, 0.1, 0.2, 0.2), Object("ägg", -0.2, 0, 1.3, 1), Object("猫", 0, 0, 1, 1)]
    examine = detect(LABELS, max_objects=3).localization.check_annotations
    assert examine(format_objects([*good[:2], Object("🦊", 0, 0, 1, 1, crowd=True)]).encode()) == (
        *("猫\nägg", ""),
        ("boxes beyond the image edge, clipped",),
    )
    assert examine(b"") == ("", "", ())
    assert examine(format_objects([*good, good[0]]).encode())[1] == "has 4 objects, more than max_objects=3"
    assert "not a line of class" in examine("猫\t0.1".encode())[1]
    assert "could not convert" in examine("猫\ta\tb\tc\td\t0".encode())[1]


# ---- head, decoding and reading


def features(channels=8, side=SIDE):
    inputs = {f"P{n}": keras.Input((side // 2**n, side // 2**n, channels), name=f"P{n}") for n in (3, 4, 5)}
    return inputs, Features(keras.layers.GlobalAveragePooling2D()(inputs["P5"]), inputs)


def network(task, **options):
    inputs, given = features(**options)
    return keras.Model(inputs, task.head(given))


def pyramid(count, channels=8):
    return {f"P{n}": RNG.normal(size=(count, SIDE // 2**n, SIDE // 2**n, channels)).astype("f4") for n in (3, 4, 5)}


def test_a_detector_is_small_enough_for_a_phone():
    """MobileNetV2 at 320 pixels: weights of two bytes, normalizations folded into convolutions, are below 6 MB."""
    tower = BACKBONES.build(parse_spec("torchvision_mobilenet_v2(weights='none', size=320)"))
    model = keras.Model(tower.inputs, detect(ClassLabels(tuple("abcdef"), (1,) * 6, 6)).head(tower.features))
    folded = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = model.count_params() - sum(layer.count_params() for layer in folded)
    offsets = sum(layer.moving_mean.shape[0] for layer in folded)
    assert 2 * (weights + offsets) < 6e6


def test_head_says_classes_and_distances_apart_and_together():
    """Float32 in mixed precision too; at first every class is unlikely everywhere."""
    keras.utils.set_random_seed(0)
    outputs = network(detect(LABELS, dim=16))(pyramid(2))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "logits": (2, PLACES, 7),
        "classes": (2, PLACES, 3),
        "distances": (2, PLACES, 4),
    }
    np.testing.assert_array_equal(np.concatenate([outputs["classes"], outputs["distances"]], -1), outputs["logits"])
    assert np.asarray(keras.ops.sigmoid(outputs["classes"])).mean() == pytest.approx(0.01, rel=0.1)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(detect(LABELS, dim=16))
    finally:
        keras.config.set_dtype_policy(policy)
    assert {tensor.dtype for tensor in model.output.values()} == {"float32"}


def test_levels_and_neck_can_be_chosen():
    """The neck has its own channels; a level that the backbone lacks is refused."""
    from tfx_finetune.core.spec import Spec

    task = detect(LABELS, levels=("P4", "P5"), neck=Spec("fpn", (), {"dim": 8}), dim=4, depth=1)
    assert task.localization.levels == ("P4", "P5")
    assert network(task).output["classes"].shape == (None, 20, 3)
    _, given = features()
    with pytest.raises(UserError, match=r"a feature level that the backbone lacks: P2\. Expected: P3, P4, P5"):
        detect(LABELS, levels=("P2", "P3")).head(given)


def test_decoding_is_the_same_of_logits_alone():
    """Scores are probabilities, boxes shares of the square: place 64 at (8, 8) says 0.5 and 1 strides of 16."""
    task = detect(LABELS)
    said = logits((64, 1, 0.0, (0.5, 0.5, 1.0, 1.0)))
    found = task.decode({"logits": said})
    apart = task.decode({"logits": said, "classes": said[..., :3], "distances": said[..., 3:]})
    for name in ("scores", "boxes"):
        np.testing.assert_array_equal(found[name], apart[name])
    assert np.asarray(found["scores"])[0, 64].tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert np.asarray(found["boxes"])[0, 64].tolist() == pytest.approx([0, 0, 24 / 64, 24 / 64])


def test_reading_gives_each_object_once_in_pixels():
    """Of two places that say one box, the surer; of a box that leaves the picture, what is in it."""
    task = detect(LABELS, max_detections=4)
    same = (0.5, 0.5, 1.5, 0.5)
    said = logits((0, 1, 1.0, same), (1, 1, 2.0, (1.5, 0.5, 0.5, 0.5)), (63, 2, 0.0, (0.5, 0.5, 9, 9)))
    found = task.postprocess({name: np.asarray(value) for name, value in task.decode({"logits": said}).items()})
    assert found.shape == (1, 4, 6)
    np.testing.assert_allclose(found[0, 0], [0, 0, 16, 8, 1 / (1 + math.exp(-2)), 1], atol=1e-5)
    np.testing.assert_allclose(found[0, 1], [56, 56, 64, 64, 0.5, 2], atol=1e-5)
    assert found[0, 2:].tolist() == [[0, 0, 0, 0, 0, -1]] * 2
    empty = {"scores": np.zeros((0, PLACES, 3), "f4"), "boxes": np.zeros((0, PLACES, 4), "f4")}
    assert task.postprocess(empty).shape == (0, 4, 6)
    many = {"scores": RNG.uniform(size=(70, PLACES, 3)), "boxes": RNG.uniform(size=(70, PLACES, 4))}
    assert np.array_equal(task.postprocess(many)[40:41], task.postprocess({name: value[40:41] for name, value in many.items()}))


def test_a_servable_head_is_a_keras_file(tmp_path):
    """Decoding stands in the file, which needs no code of ours."""
    task = detect(LABELS, dim=8, depth=1)
    inputs, given = features()
    model = keras.Model(inputs, task.decode(task.head(given)))
    model.save(tmp_path / "detector.keras")
    x = pyramid(2)
    for name, value in keras.models.load_model(tmp_path / "detector.keras")(x).items():
        np.testing.assert_allclose(value, model(x)[name], atol=1e-6)


def test_predict_is_the_json_line_of_a_picture():
    """Objects from the threshold on, the surest first; the classes as tagging has them."""
    found = np.array(
        [[1, 2, 30, 40, 0.9, 1], [5, 5, 9, 9, 0.6, 0], [0, 0, 9, 9, 0.5, 1], [0, 0, 9, 9, 0.1, 2], [0] * 5 + [-1]]
    )
    record = detect(LABELS, display_threshold=0.4).format_prediction(found.astype("f4"))
    assert json.loads(json.dumps(record, ensure_ascii=False)) == record
    assert record["label"] == ["ägg", "猫"]
    assert record["score"] == pytest.approx([0.6, 0.9])
    assert list(record["scores"].values()) == pytest.approx([0.6, 0.9, 0.1])
    assert [each["label"] for each in record["objects"]] == ["猫", "ägg", "猫"]
    assert record["objects"][0]["box"] == [1, 2, 30, 40]
    nothing = detect(LABELS).format_prediction(np.array([[0, 0, 0, 0, 0, -1]], "f4"))
    assert nothing == {"label": [], "score": [], "scores": dict.fromkeys(LABELS.names, 0.0), "objects": []}


def test_drawing_shows_targets_and_what_was_found():
    """Both alike, but for the scores; what is not answered is not drawn."""
    draw = detect(LABELS).localization.draw
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    known = rows((10, 20, 40, 50, 1, 1))[0]
    found = np.array([[10, 20, 40, 50, 0.9, 1], [0, 0, 0, 0, 0, -1]], "f4")
    first, second = draw(pixels, known, True), draw(pixels, found, False)
    assert (first[50, 10:40] == second[50, 10:40]).all()
    assert (first[50, 20] != 128).any()
    assert not np.array_equal(first, second)
    assert (draw(pixels, rows()[0], True) == 128).all()
    assert (draw(pixels, np.array([[10, 20, 40, 50, 0.1, 1], [0, 0, 0, 0, 0, -1]], "f4"), False) == 128).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, r"dim of detect\(\) is out of range: 0\. Expected: 1 or more\."),
        ({"iou_threshold": 1.5}, r"iou_threshold of detect\(\) is out of range: 1\.5\. Expected: 0 to 1\."),
        ({"box_weight": -1.0}, r"box_weight of detect\(\) is out of range"),
        ({"levels": ("P5", "P4")}, r"levels of detect\(\) are invalid: .* from fine to coarse"),
        ({"levels": ("P3", "P9")}, r"levels of detect\(\) are invalid"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    """In one line, before weights or data are touched."""
    with pytest.raises(UserError, match=message):
        detect(LABELS, **options)


def test_it_learns():
    """Features that show what is where: every object is found in its place on the pictures that were learned."""
    keras.utils.set_random_seed(0)
    count, task = 16, detect(TWO, levels=("P3", "P4"), dim=16, depth=1, max_objects=2)
    target = np.zeros((count, 2, 6), np.float32)
    pictures = np.zeros((count, SIDE, SIDE, 2), np.float32)
    for picture in range(count):
        for row in range(picture % 3):
            corner, sides = RNG.integers(0, 4, 2) * 8 + np.array([row * 32, 0]), RNG.integers(2, 5, 2) * 8
            label = (picture + row) % 2
            target[picture, row] = [*corner, *np.minimum(corner + sides, SIDE), label, 1]
            left, top, right, bottom = target[picture, row, :4].astype(int)
            pictures[picture, top:bottom, left:right, label] = 1
    inputs = keras.Input((SIDE, SIDE, 2))
    given = {f"P{n}": keras.layers.AveragePooling2D(2**n)(inputs) for n in (3, 4)}
    model = keras.Model(inputs, task.head(Features(inputs, given))["logits"])
    model.compile(keras.optimizers.Adam(0.01), task.loss, jit_compile=False)
    history = model.fit(pictures, target, epochs=50, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2
    scores = task.decode({"logits": model(pictures, training=True)})
    found = task.postprocess({name: np.asarray(value) for name, value in scores.items()})
    assert task.compute_metrics(target, found)["ap50"] > 0.8


def test_levels_share_no_layer():
    """Each normalization stands behind a convolution of its own, into which it can be folded."""
    from tfx_finetune.compression.fold_batch_norm import fold_batch_norm

    model = network(detect(LABELS, dim=8))
    again = fold_batch_norm(model)
    assert not [layer for layer in again.layers if isinstance(layer, keras.layers.BatchNormalization)]
    x = pyramid(1)
    np.testing.assert_allclose(again(x)["logits"], model(x)["logits"], atol=1e-5)
    assert dense_head.LOGITS in model.output
