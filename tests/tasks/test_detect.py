"""Detection task: targets, head, decoding, predictions and training."""

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


def rows(*objects, most=5):
    """Return a target (1, most, 6) from rows of box, class and kind."""
    target_rows = np.zeros((1, most, 6), np.float32)
    for row_index, row in enumerate(objects):
        target_rows[0, row_index] = row
    return target_rows


def logits(*sure, classes=3, low=-20.0):
    """Return logits (1, 84, classes + 4) of background, with a class, its logit and distances at some anchor points."""
    values = np.zeros((1, PLACES, classes + 4), np.float32)
    values[..., :classes] = low
    for place, label, value, far in sure:
        values[0, place, label] = value
        values[0, place, classes:] = far
    return values


# ---- targets


def target(text, size=(100, 200), lay=LAY, **options):
    places = detect(LABELS, **options).localization
    return places.encode(places.read_annotations(tf.constant(text), tf.constant(size)), tf.constant(size), lay).numpy()


def test_targets_are_in_pixels_of_the_model_input():
    """A 100 x 200 image is letterboxed into a square of 64; rows are sorted by area, crowds last."""
    text = format_objects(
        [
            Object("猫", 0.5, 0.25, 0.75, 0.5),
            Object("ägg", 0, 0, 1, 1, crowd=True),
            Object("🦊", 0.0, 0.5, 1.0, 1.0),
        ]
    )
    encoded = target(text, lay=Letterbox(tf.constant([0.32, 0.32]), tf.constant([16.0, 0.0]), 64), max_objects=4)
    np.testing.assert_allclose(
        encoded, [[0, 32, 64, 48, 2, 1], [32, 24, 48, 32, 1, 1], [0, 16, 64, 48, 0, 2], [0] * 6], atol=1e-4
    )


def test_boxes_are_clipped_to_the_crop():
    """Boxes are clipped to the crop, and boxes outside of it are removed."""
    text = format_objects([Object("ägg", 0.1, 0.2, 0.5, 0.4), Object("ägg", 0.0, 0.0, 0.25, 1.0)])
    encoded = target(text, lay=Letterbox(tf.constant([0.5, 0.5]), tf.constant([0.0, -25.0]), 50))
    np.testing.assert_allclose(encoded[:2], [[0, 10, 25, 20, 0, 1], [0] * 6], atol=1e-4)


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
def test_invalid_and_tiny_boxes(box, left, finding):
    """The check reports the same repairs as the target has; tiny boxes are enlarged to a pixel."""
    text = "\t".join(map(str, ("ägg", *box, 0)))
    assert detect(LABELS).localization.check_annotations(text.encode()) == (
        "ägg" if left else "",
        "",
        (finding,) if finding else (),
    )
    rows = target(text, size=(64, 64), lay=Letterbox(tf.ones(2), tf.zeros(2), 64))
    np.testing.assert_allclose(rows[0], (*left, 0, 1) if left else [0] * 6, atol=1e-3)
    assert not rows[1:].any()


def test_targets_of_images_without_objects():
    """Images without objects of the model's classes have an empty target."""
    for text in ("", format_objects([Object("dog", 0, 0, 1, 1)])):
        assert not target(text).any()
        assert target(text).shape == (100, 6)


def test_the_largest_objects_are_kept():
    """A target with too many objects keeps the largest."""
    text = format_objects([Object("ägg", 0, 0, size, size) for size in (0.1, 0.4, 0.2, 0.3)])
    np.testing.assert_allclose(target(text, max_objects=2)[:, 2], [80, 60], atol=1e-3)


def test_targets_in_a_pipeline():
    """All targets have the same shape in a tf.data pipeline."""
    places = detect(LABELS, max_objects=3).localization
    texts = ["", format_objects([Object("猫", 0, 0, 0.5, 1)])]

    def each(text):
        size = tf.constant([64, 64])
        return places.encode(places.read_annotations(text, size), size, LAY)

    targets = np.stack(list(tf.data.Dataset.from_tensor_slices(texts).map(each).as_numpy_iterator()))
    assert targets.tolist() == [[[0] * 6] * 3, [[0, 0, 32, 64, 1, 1], [0] * 6, [0] * 6]]


def test_check_annotations():
    """The check returns the classes, the error and the repairs of a column."""
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
    inputs, backbone_features = features(**options)
    return keras.Model(inputs, task.head(backbone_features))


def pyramid(count, channels=8):
    return {f"P{n}": RNG.normal(size=(count, SIDE // 2**n, SIDE // 2**n, channels)).astype("f4") for n in (3, 4, 5)}


def test_a_detector_is_small_enough_for_a_phone():
    """A detector on MobileNetV2 at 320 pixels has less than 6 MB of float16 weights."""
    tower = BACKBONES.build(parse_spec("torchvision_mobilenet_v2(weights='none', size=320)"))
    model = keras.Model(tower.inputs, detect(ClassLabels(tuple("abcdef"), (1,) * 6, 6)).head(tower.features))
    folded = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = model.count_params() - sum(layer.count_params() for layer in folded)
    offsets = sum(layer.moving_mean.shape[0] for layer in folded)
    assert 2 * (weights + offsets) < 6e6


def test_head_outputs():
    """The head outputs classes, distances and both together, in float32, with low initial scores."""
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


def test_levels_and_neck_options():
    """The head uses the levels and the neck of the options; a missing level is refused."""
    from tfx_finetune.core.spec import Spec

    task = detect(LABELS, levels=("P4", "P5"), neck=Spec("fpn", (), {"dim": 8}), dim=4, depth=1)
    assert task.localization.levels == ("P4", "P5")
    assert network(task).output["classes"].shape == (None, 20, 3)
    _, backbone_features = features()
    with pytest.raises(UserError, match=r"a feature level that the backbone lacks: P2\. Expected: P3, P4, P5"):
        detect(LABELS, levels=("P2", "P3")).head(backbone_features)


def test_decoding_of_logits():
    """Decoding `logits` equals decoding `classes` and `distances`."""
    task = detect(LABELS)
    head_logits = logits((64, 1, 0.0, (0.5, 0.5, 1.0, 1.0)))
    decoded = task.decode({"logits": head_logits})
    decoded_separately = task.decode(
        {"logits": head_logits, "classes": head_logits[..., :3], "distances": head_logits[..., 3:]}
    )
    for name in ("scores", "boxes"):
        np.testing.assert_array_equal(decoded[name], decoded_separately[name])
    assert np.asarray(decoded["scores"])[0, 64].tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert np.asarray(decoded["boxes"])[0, 64].tolist() == pytest.approx([0, 0, 24 / 64, 24 / 64])


def test_postprocess_returns_each_object_once():
    """Non-maximum suppression keeps the higher score, and boxes are clipped to the image."""
    task = detect(LABELS, max_detections=4)
    same = (0.5, 0.5, 1.5, 0.5)
    head_logits = logits((0, 1, 1.0, same), (1, 1, 2.0, (1.5, 0.5, 0.5, 0.5)), (63, 2, 0.0, (0.5, 0.5, 9, 9)))
    objects = task.postprocess(
        {name: np.asarray(value) for name, value in task.decode({"logits": head_logits}).items()}
    )
    assert objects.shape == (1, 4, 6)
    np.testing.assert_allclose(objects[0, 0], [0, 0, 16, 8, 1 / (1 + math.exp(-2)), 1], atol=1e-5)
    np.testing.assert_allclose(objects[0, 1], [56, 56, 64, 64, 0.5, 2], atol=1e-5)
    assert objects[0, 2:].tolist() == [[0, 0, 0, 0, 0, -1]] * 2
    empty = {"scores": np.zeros((0, PLACES, 3), "f4"), "boxes": np.zeros((0, PLACES, 4), "f4")}
    assert task.postprocess(empty).shape == (0, 4, 6)
    many = {"scores": RNG.uniform(size=(70, PLACES, 3)), "boxes": RNG.uniform(size=(70, PLACES, 4))}
    assert np.array_equal(
        task.postprocess(many)[40:41], task.postprocess({name: value[40:41] for name, value in many.items()})
    )


def test_decoding_is_saved_in_a_keras_file(tmp_path):
    """A Keras file with decoding needs no code of this package."""
    task = detect(LABELS, dim=8, depth=1)
    inputs, backbone_features = features()
    model = keras.Model(inputs, task.decode(task.head(backbone_features)))
    model.save(tmp_path / "detector.keras")
    x = pyramid(2)
    for name, value in keras.models.load_model(tmp_path / "detector.keras")(x).items():
        np.testing.assert_allclose(value, model(x)[name], atol=1e-6)


def test_format_prediction():
    """The record has the objects above the threshold, and label, score and scores like tagging."""
    detections = np.array(
        [[1, 2, 30, 40, 0.9, 1], [5, 5, 9, 9, 0.6, 0], [0, 0, 9, 9, 0.5, 1], [0, 0, 9, 9, 0.1, 2], [0] * 5 + [-1]]
    )
    record = detect(LABELS, display_threshold=0.4).format_prediction(detections.astype("f4"))
    assert json.loads(json.dumps(record, ensure_ascii=False)) == record
    assert record["label"] == ["ägg", "猫"]
    assert record["score"] == pytest.approx([0.6, 0.9])
    assert list(record["scores"].values()) == pytest.approx([0.6, 0.9, 0.1])
    assert [each["label"] for each in record["objects"]] == ["猫", "ägg", "猫"]
    assert record["objects"][0]["box"] == [1, 2, 30, 40]
    nothing = detect(LABELS).format_prediction(np.array([[0, 0, 0, 0, 0, -1]], "f4"))
    assert nothing == {"label": [], "score": [], "scores": dict.fromkeys(LABELS.names, 0.0), "objects": []}


def test_drawing_of_targets_and_predictions():
    """Targets and predictions are drawn at the same position; low scores are not drawn."""
    draw = detect(LABELS).localization.draw
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    target_rows = rows((10, 20, 40, 50, 1, 1))[0]
    detections = np.array([[10, 20, 40, 50, 0.9, 1], [0, 0, 0, 0, 0, -1]], "f4")
    first, second = draw(pixels, target_rows, True), draw(pixels, detections, False)
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
    """An option out of range raises an error before weights or data are read."""
    with pytest.raises(UserError, match=message):
        detect(LABELS, **options)


def test_training_learns():
    """A head on features that show the objects learns to detect them."""
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
    pyramid_features = {f"P{n}": keras.layers.AveragePooling2D(2**n)(inputs) for n in (3, 4)}
    model = keras.Model(inputs, task.head(Features(inputs, pyramid_features))["logits"])
    model.compile(keras.optimizers.Adam(0.01), task.loss, jit_compile=False)
    history = model.fit(pictures, target, epochs=50, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2
    scores = task.decode({"logits": model(pictures, training=True)})
    detections = task.postprocess({name: np.asarray(value) for name, value in scores.items()})
    assert task.compute_metrics(target, detections)["ap50"] > 0.8


def test_levels_share_no_layer():
    """Each batch normalization follows a convolution, into which it can be folded."""
    from tfx_finetune.compression.fold_batch_norm import fold_batch_norm

    model = network(detect(LABELS, dim=8))
    again = fold_batch_norm(model)
    assert not [layer for layer in again.layers if isinstance(layer, keras.layers.BatchNormalization)]
    x = pyramid(1)
    np.testing.assert_allclose(again(x)["logits"], model(x)["logits"], atol=1e-5)
    assert dense_head.LOGITS in model.output
