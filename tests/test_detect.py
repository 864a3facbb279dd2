"""Detection: targets, which places learn what, the loss by hand, decoding, and that it learns."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfx_finetune.contracts import Features, Labels
from tfx_finetune.core.errors import UserError
from tfx_finetune.objects import Object, written
from tfx_finetune.places import Lay
from tfx_finetune.tasks import align, dense
from tfx_finetune.tasks.detect import detect

LABELS = Labels(("ägg", "猫", "🦊"), (6, 3, 1), 10)
TWO = Labels(("a", "b"), (8, 8), 16)
RNG = np.random.default_rng(0)
SIDE, PLACES = 64, 64 + 16 + 4
LAY = Lay(tf.ones(2), tf.zeros(2), 200)


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
    places = detect(LABELS, **options).places
    return places.encode(places.read(tf.constant(text), tf.constant(size)), tf.constant(size), lay).numpy()


def test_objects_come_to_pixels_of_the_prepared_picture():
    """A picture of 100 x 200 in a square of 64: 32 x 64 with 16 above; crowds come last, large ones first."""
    text = written(
        [
            Object("猫", 0.5, 0.25, 0.75, 0.5),
            Object("ägg", 0, 0, 1, 1, crowd=True),
            Object("🦊", 0.0, 0.5, 1.0, 1.0),
        ]
    )
    found = target(text, lay=Lay(tf.constant([0.32, 0.32]), tf.constant([16.0, 0.0]), 64), max_objects=4)
    np.testing.assert_allclose(
        found, [[0, 32, 64, 48, 2, 1], [32, 24, 48, 32, 1, 1], [0, 16, 64, 48, 0, 2], [0] * 6], atol=1e-4
    )


def test_what_a_crop_leaves_out_is_cut_away():
    """The middle 100 x 100 of 100 x 200, in a square of 50: what is left of it is outside."""
    text = written([Object("ägg", 0.1, 0.2, 0.5, 0.4), Object("ägg", 0.0, 0.0, 0.25, 1.0)])
    found = target(text, lay=Lay(tf.constant([0.5, 0.5]), tf.constant([0.0, -25.0]), 50))
    np.testing.assert_allclose(found[:2], [[0, 10, 25, 20, 0, 1], [0] * 6], atol=1e-4)


def test_pictures_without_objects_have_a_target_too():
    """And objects of classes that the model does not know are none."""
    for text in ("", written([Object("dog", 0, 0, 1, 1)])):
        assert not target(text).any()
        assert target(text).shape == (100, 6)


def test_more_objects_than_there_is_room_for():
    """The largest are kept, as augments may put several pictures into one."""
    text = written([Object("ägg", 0, 0, size, size) for size in (0.1, 0.4, 0.2, 0.3)])
    np.testing.assert_allclose(target(text, max_objects=2)[:, 2], [80, 60], atol=1e-3)


def test_targets_are_made_in_a_pipeline():
    places = detect(LABELS, max_objects=3).places
    texts = ["", written([Object("猫", 0, 0, 0.5, 1)])]

    def each(text):
        size = tf.constant([64, 64])
        return places.encode(places.read(text, size), size, LAY)

    found = np.stack(list(tf.data.Dataset.from_tensor_slices(texts).map(each).as_numpy_iterator()))
    assert found.tolist() == [[[0] * 6] * 3, [[0, 0, 32, 64, 1, 1], [0] * 6, [0] * 6]]


def test_examine_says_which_classes_and_what_is_wrong():
    good = [Object("猫", 0.1, 0.1, 0.2, 0.2), Object("ägg", -0.2, 0, 1.3, 1), Object("猫", 0, 0, 1, 1)]
    examine = detect(LABELS, max_objects=3).places.examine
    assert examine(written([*good[:2], Object("🦊", 0, 0, 1, 1, crowd=True)]).encode()) == ("猫\nägg", "")
    assert examine(b"") == ("", "")
    assert examine(written([*good, good[0]]).encode())[1] == "has 4 objects, more than max_objects=3"
    for box in ((0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (1.1, 0, 1.2, 1)):
        assert examine(written([Object("猫", *box)]).encode())[1].startswith("has a box of no area in the picture: 猫 ")
    assert "not a line of class" in examine("猫\t0.1".encode())[1]
    assert "could not convert" in examine("猫\ta\tb\tc\td\t0".encode())[1]
    assert "could not convert" not in examine("猫\tnan\t0\t1\t1\t0".encode())[1] != ""


# ---- which places learn what


def learned(target, sure, **options):
    grid = align.boxes.grid(PLACES, ("P3", "P4", "P5"))
    given = logits(*sure)
    scores = 1 / (1 + np.exp(-given[..., :-4]))
    found = align.boxes.around(grid.centres, given[..., -4:] * grid.strides)
    return align.assigned(target, scores, found, grid, align.Alignment(**options))


def test_the_best_aligned_places_learn_an_object():
    """Places 0 and 1 lie in the box (0, 0, 16, 8), at (4, 4) and (12, 4). The first says it exactly, the second half of
    it and more surely: s * u^6 of 0.5 and 0.9 * 2^-6. Place 2 lies beside it, whatever it says.
    """
    sure = [(0, 1, 0.0, (0.5, 0.5, 1.5, 0.5)), (1, 1, math.log(9), (0.5,) * 4), (2, 1, 9.0, (2.5, 0.5, -0.5, 0.5))]
    found = learned(rows((0, 0, 16, 8, 1, 1)), sure)
    worth = np.asarray(found.worth)[0]
    assert worth[0] == pytest.approx(1.0)
    assert worth[1] == pytest.approx(0.9 / 64 / 0.5)
    assert worth[2] == 0
    assert np.asarray(found.wanted)[0, :2].tolist() == pytest.approx(np.array([[0, worth[0], 0], [0, worth[1], 0]]))
    assert np.asarray(found.box)[0, :2].tolist() == [[0, 0, 16, 8]] * 2
    alone = np.asarray(learned(rows((0, 0, 16, 8, 1, 1)), sure, places=1).worth)[0]
    assert alone[0] == pytest.approx(1.0)
    assert np.flatnonzero(alone).tolist() == [0]


def test_the_worth_is_the_overlap_of_the_best_place():
    """A place that says half of its object's box, as well as any, is to say 0.5."""
    found = learned(rows((0, 0, 16, 8, 2, 1)), [(1, 2, 0.0, (0.5,) * 4)])
    assert np.asarray(found.worth)[0, 1] == pytest.approx(0.5)


def test_a_place_in_two_objects_learns_that_which_it_overlaps_most():
    """Place 0 says the small one; the large one is left to another place."""
    sure = [(0, 0, 0.0, (0.5,) * 4), (9, 0, 0.0, (1.5,) * 4)]
    found = learned(rows((0, 0, 8, 8, 0, 1), (0, 0, 24, 24, 0, 1)), sure)
    assert np.asarray(found.box)[0, [0, 9]].tolist() == [[0, 0, 8, 8], [0, 0, 24, 24]]
    assert np.asarray(found.worth)[0, [0, 9]].tolist() == pytest.approx([1, 1])


def test_an_object_between_places_is_learned_by_that_of_its_cell():
    """A box of 2 x 2 pixels around (1, 1) has no centre of a cell in it, and is in the first cell of every level."""
    near = [(place, 0, 0.0, (2.0,) * 4) for place in range(PLACES)]
    found = learned(rows((0, 0, 2, 2, 0, 1)), near)
    assert np.flatnonzero(np.asarray(found.worth)[0]).tolist() == [0, 64, 80]


def test_crowds_and_padding_are_learned_by_nobody():
    """Places inside of a crowd are marked; a class of padding, which is 0, is none."""
    sure = [(place, 0, 3.0, (2.0,) * 4) for place in range(PLACES)]
    found = learned(rows((0, 0, 16, 8, 1, 2)), sure)
    assert not np.asarray(found.worth).any()
    assert np.flatnonzero(np.asarray(found.ignored)[0]).tolist() == [0, 1, 64]
    nothing = learned(rows(), sure)
    assert not np.asarray(nothing.worth).any()
    assert not np.asarray(nothing.ignored).any()


@pytest.mark.parametrize("count", [8, 9, 40])
def test_room_for_more_objects_changes_nothing(count):
    """Rows of padding are left out by steps; what is learned is the same with and without them."""
    corner = RNG.uniform(0, 40, (count, 2))
    given = [(*low, *(low + RNG.uniform(4, 24, 2)), RNG.integers(0, 3), RNG.integers(1, 3)) for low in corner]
    sure = [(place, place % 3, RNG.normal(), RNG.uniform(0, 3, 4)) for place in range(PLACES)]
    plain, roomy = learned(rows(*given, most=count), sure), learned(rows(*given, most=100), sure)
    assert np.count_nonzero(plain.worth) > 10
    for one, other in zip(plain, roomy, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# ---- the loss


def loss(target, given, **options):
    return np.asarray(detect(LABELS, **options).loss.call(target, given))


def test_loss_by_hand():
    """One place says its object's box exactly with p = 0.8, one is surely wrong with p = 0.6, all else is 0.

    |1 - 0.8|^2 * -ln 0.8 + 0.6^2 * -ln 0.4; with half of the box u = GIoU = 0.5, and what is wanted is 0.5:
    |0.5 - 0.8|^2 * -(ln 0.8 + ln 0.2) / 2 + 2 * 0.5 * (1 - 0.5).
    """
    given = rows((0, 0, 16, 8, 1, 1))
    wrong = (40, 2, math.log(1.5), (1.0,) * 4)
    exact = logits((0, 1, math.log(4), (0.5, 0.5, 1.5, 0.5)), wrong)
    expected = -(0.04 * math.log(0.8) + 0.36 * math.log(0.4))
    assert loss(given, exact) == pytest.approx(expected, rel=1e-4)
    half = logits((1, 1, math.log(4), (0.5,) * 4), wrong)
    expected = -0.09 * (math.log(0.8) + math.log(0.2)) / 2 - 0.36 * math.log(0.4) + 2 * 0.5 * (1 - 0.5)
    assert loss(given, half) == pytest.approx(expected, rel=1e-4)
    assert loss(given, half, box_weight=0.0) == pytest.approx(expected - 0.5, rel=1e-4)
    # The boxes' centres are 4 apart, their corners 16 x 8.
    assert loss(given, half, box="diou") == pytest.approx(expected + 16 / (256 + 64), rel=1e-4)


def test_crowds_are_not_learned_as_nothing():
    """A place in one may say what it wants; but a place of an object is learned, also inside of one."""
    said = logits((0, 1, 2.0, (0.5, 0.5, 1.5, 0.5)))
    assert loss(rows(), said) > 1
    assert loss(rows((0, 0, 32, 32, 0, 2)), said) == pytest.approx(0, abs=1e-6)
    both = loss(rows((0, 0, 32, 32, 0, 2), (0, 0, 16, 8, 1, 1)), said)
    assert both == pytest.approx(loss(rows((0, 0, 16, 8, 1, 1)), said), rel=1e-4)


def test_every_object_of_a_batch_counts_alike():
    """Two pictures with three objects at three places: divided by the mean of what is wanted, 1.5."""
    place = (0.5, 0.5, 1.5, 0.5)
    given = np.concatenate([rows((0, 0, 16, 8, 1, 1)), rows((0, 0, 16, 8, 1, 1), (16, 0, 32, 8, 1, 1))])
    said = np.concatenate([logits((0, 1, 0.0, place)), logits((0, 1, 0.0, place), (2, 1, 0.0, place))])
    one, two = loss(given, said)
    assert two == pytest.approx(2 * one, rel=1e-4)
    assert one == pytest.approx(0.25 * math.log(2) / 1.5, rel=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_nothing_is_not_a_number(spread):
    """Whatever a network says, of pictures with crowds, empty boxes and none: finite, and so are the gradients."""
    task = detect(LABELS)
    given = np.concatenate(
        [
            rows(),
            rows((0, 0, 16, 8, 1, 1), (3, 3, 3, 9, 0, 1), (0, 0, 64, 64, 2, 2)),
            rows(*[(5, 5, 5, 5, 0, 1)] * 5),
        ]
    )
    said = tf.Variable(RNG.normal(size=(3, PLACES, 7)).astype("f4") * spread)
    with tf.GradientTape() as tape:
        value = task.loss(tf.constant(given), said)
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, said)).all()


# ---- head, decoding and reading


def features(channels=8, side=SIDE):
    inputs = {f"P{n}": keras.Input((side // 2**n, side // 2**n, channels), name=f"P{n}") for n in (3, 4, 5)}
    return inputs, Features(keras.layers.GlobalAveragePooling2D()(inputs["P5"]), inputs)


def network(task, **options):
    inputs, given = features(**options)
    return keras.Model(inputs, task.head(given))


def pyramid(count, channels=8):
    return {f"P{n}": RNG.normal(size=(count, SIDE // 2**n, SIDE // 2**n, channels)).astype("f4") for n in (3, 4, 5)}


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
    assert task.places.levels == ("P4", "P5")
    assert network(task).output["classes"].shape == (None, 20, 3)
    _, given = features()
    with pytest.raises(UserError, match=r"no such level; received: P2; allowed: .*P3"):
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
    found = task.read({name: np.asarray(value) for name, value in task.decode({"logits": said}).items()})
    assert found.shape == (1, 4, 6)
    np.testing.assert_allclose(found[0, 0], [0, 0, 16, 8, 1 / (1 + math.exp(-2)), 1], atol=1e-5)
    np.testing.assert_allclose(found[0, 1], [56, 56, 64, 64, 0.5, 2], atol=1e-5)
    assert found[0, 2:].tolist() == [[0, 0, 0, 0, 0, -1]] * 2
    empty = {"scores": np.zeros((0, PLACES, 3), "f4"), "boxes": np.zeros((0, PLACES, 4), "f4")}
    assert task.read(empty).shape == (0, 4, 6)
    many = {"scores": RNG.uniform(size=(70, PLACES, 3)), "boxes": RNG.uniform(size=(70, PLACES, 4))}
    assert np.array_equal(task.read(many)[40:41], task.read({name: value[40:41] for name, value in many.items()}))


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
    record = detect(LABELS, threshold=0.4).predict(found.astype("f4"))
    assert json.loads(json.dumps(record, ensure_ascii=False)) == record
    assert record["label"] == ["ägg", "猫"]
    assert record["score"] == pytest.approx([0.6, 0.9])
    assert list(record["scores"].values()) == pytest.approx([0.6, 0.9, 0.1])
    assert [each["label"] for each in record["objects"]] == ["猫", "ägg", "猫"]
    assert record["objects"][0]["box"] == [1, 2, 30, 40]
    nothing = detect(LABELS).predict(np.array([[0, 0, 0, 0, 0, -1]], "f4"))
    assert nothing == {"label": [], "score": [], "scores": dict.fromkeys(LABELS.names, 0.0), "objects": []}


def test_drawing_shows_targets_and_what_was_found():
    """Both alike, but for the scores; what is not answered is not drawn."""
    draw = detect(LABELS).places.draw
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
        ({"dim": 0}, "dim of detect is out of range; received: 0; allowed: 1 or more"),
        ({"nms": 1.5}, "nms of detect is out of range; received: 1.5; allowed: 0 to 1"),
        ({"box_weight": -1.0}, "box_weight of detect is out of range"),
        ({"levels": ("P5", "P4")}, "levels of detect are not such; .* from fine to coarse"),
        ({"levels": ("P3", "P9")}, "levels of detect are not such"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
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
    found = task.read({name: np.asarray(value) for name, value in scores.items()})
    assert task.scores(target, found)["ap50"] > 0.8


def test_levels_share_no_layer():
    """Each normalization stands behind a convolution of its own, into which it can be folded."""
    from tfx_finetune.fold import folded

    model = network(detect(LABELS, dim=8))
    again = folded(model)
    assert not [layer for layer in again.layers if isinstance(layer, keras.layers.BatchNormalization)]
    x = pyramid(1)
    np.testing.assert_allclose(again(x)["logits"], model(x)["logits"], atol=1e-5)
    assert dense.LOGITS in model.output
