"""Segmentation: the head learns, its loss and scores are what others compute, its files give the same masks."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from sklearn import metrics

from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import Spec, parse_spec
from tfx_finetune.ops import litert
from tfx_finetune.ops.functional import load_keras_model
from tfx_finetune.types.components import TASKS, Features
from tfx_finetune.types.localization import Letterbox
from tfx_finetune.types.task import ClassLabels

NAMES = ("background", "apfel", "猫")
LABELS = ClassLabels(NAMES, (40, 20, 10), 40)
HEADS = ("segment()", "segment(decoder='lraspp')", "segment(stride=4, neck=bifpn(dim=16, repeats=1))")


def built(spec="segment()", **options):
    spec = parse_spec(spec)
    return TASKS.build(Spec(spec.name, (), spec.kwargs | options), LABELS)


def network(task, side=64):
    """A small tower with a pyramid, and the head on it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    pyramid = {}
    for level in range(1, 6):
        x = keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
        pyramid[f"P{level}"] = x
    return inputs, task.head(Features(keras.layers.GlobalAveragePooling2D()(x), pyramid))


def squares(count, side=64):
    """Pictures of noise with a red and a green square, and their masks, whose first column is untold."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 80, (count, side, side, 3))
    mask = np.zeros((count, side, side), np.uint8)
    for row, place in itertools.product(range(count), (1, 2)):
        top, left = rng.integers(0, side - 24, 2)
        pixels[row, top : top + 24, left : left + 24] = np.eye(3)[place - 1] * 255
        mask[row, top : top + 24, left : left + 24] = place
    mask[:, :, 0] = 255
    return pixels.astype(np.float32), mask


@pytest.mark.parametrize("spec", [*HEADS[:2], pytest.param(HEADS[2], marks=pytest.mark.slow)])
def test_training_learns(spec):
    """What is separable is learned, in few steps, and found where it is."""
    task = built(spec)
    inputs, outputs = network(task)
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, {"logits": task.loss}, metrics={"logits": task.make_metrics()}, jit_compile=False)
    pixels, mask = squares(16)
    history = model.fit(pixels, {"logits": mask}, epochs=25, batch_size=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 3
    assert history["accuracy"][-1] > 0.9
    # Normalization has seen few batches: those of training itself are asked.
    found = task.postprocess({name: np.asarray(x) for name, x in task.decode(model(pixels, training=True)).items()})
    assert found.shape == mask.shape
    assert found.dtype == np.uint8
    assert task.compute_metrics(mask, found)["miou"] > 0.75


def test_loss_by_hand():
    """Of one row of four logits: cross-entropy of what is told, and 1 - Dice of the classes that occur."""
    target = np.full((1, 16, 16), 255, np.uint8)
    logits = np.log(np.full((1, 4, 4, 3), 1 / 3, np.float32))
    # Two places are told: the first is of class 0, with a probability of 0.5, the second of class 2, with 0.8.
    target[0, 2, 2], target[0, 2, 6] = 0, 2
    logits[0, 0, 0], logits[0, 0, 1] = np.log([0.5, 0.25, 0.25]), np.log([0.1, 0.1, 0.8])
    entropy = -(np.log(0.5) + np.log(0.8)) / 2
    overlaps = 2 * 0.5 / (0.5**2 + 0.1**2 + 1), 2 * 0.8 / (0.8**2 + 0.25**2 + 1)
    assert loss(target, logits, dice=0.0) == pytest.approx([entropy], rel=1e-5)
    assert loss(target, logits, dice=0.5) == pytest.approx([entropy + 0.5 * (1 - sum(overlaps) / 2)], rel=1e-5)
    focal = -(0.5**2 * np.log(0.5) + 0.2**2 * np.log(0.8)) / 2
    assert loss(target, logits, dice=0.0, focal=2.0) == pytest.approx([focal], rel=1e-5)
    smooth = entropy * 0.7 - 0.1 * (np.log([0.5, 0.25, 0.25]).sum() + np.log([0.1, 0.1, 0.8]).sum()) / 2
    assert loss(target, logits, dice=0.0, label_smoothing=0.3) == pytest.approx([smooth], rel=1e-5)
    # 40, 20 and 10 of 70 labels, three classes: inversely to that.
    balanced = -(70 / 120 * np.log(0.5) + 70 / 30 * np.log(0.8)) / 2
    assert loss(target, logits, dice=0.0, class_weight="balanced") == pytest.approx([balanced], rel=1e-5)


def loss(target, logits, **options):
    return built(stride=4, **options).loss.call(tf.constant(target), tf.constant(logits)).numpy()


def test_loss_of_what_is_untold_is_nothing():
    """Neither a value nor a gradient, and each sample has its own: weights count them."""
    target = np.full((2, 16, 16), 255, np.uint8)
    target[1] = 1
    logits = tf.Variable(np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32))
    task = built(stride=4)
    with tf.GradientTape() as tape:
        values = task.loss.call(tf.constant(target), logits)
    slope = tape.gradient(values, logits).numpy()
    assert values[0] == 0
    assert values[1] > 0
    assert not slope[0].any()
    assert np.isfinite(slope).all()
    weighed = task.loss(target, logits, sample_weight=np.array([3.0, 1.0]))
    assert float(weighed) == pytest.approx(float(values[1]) / 4, rel=1e-5)


@pytest.mark.parametrize("spec", HEADS)
def test_decoded_masks_are_those_of_enlarged_logits(spec):
    """Probabilities at the logits' places, and the likeliest class of each pixel."""
    task = built(spec)
    stride = 4 if "stride=4" in spec else 8
    logits = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    outputs = {name: np.asarray(value) for name, value in task.decode({"logits": tf.constant(logits)}).items()}
    assert np.allclose(outputs["scores"], tf.nn.softmax(logits), atol=1e-6)
    whole = tf.image.resize(logits, (8 * stride, 8 * stride)).numpy()
    assert outputs["mask"].dtype == np.uint8
    assert np.array_equal(task.postprocess(outputs), whole.argmax(-1))


@pytest.mark.parametrize("spec", HEADS)
def test_files_give_the_same_masks(spec, tmp_path):
    """A Keras file that may run no code, and TFLite's builtin operators, in float and in int8."""
    task = built(spec)
    inputs, outputs = network(task)
    pixels, _ = squares(4)
    model = keras.Model(inputs, task.decode(outputs))
    model(pixels, training=True)  # moves normalization away from where it began
    expected = task.postprocess(model.predict(pixels, verbose=0))
    model.save(tmp_path / "model.keras")
    assert np.array_equal(task.postprocess(load_keras_model(tmp_path / "model.keras").predict(pixels, verbose=0)), expected)
    frozen = litert.freeze(lambda x: list(model(x, training=False).values()), [tf.TensorSpec((1, 64, 64, 3))])
    for quantize, least in (("none", 0.9999), ("int8", 0.9)):
        runner = litert.open_interpreter(converted(frozen, quantize, pixels), 1)
        found = np.concatenate([masks_of(runner, row[None]) for row in pixels])
        assert found.dtype == np.uint8
        assert (found == expected).mean() > least, quantize


def converted(frozen, quantize, pixels):
    def make():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([row[None]] for row in pixels)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter

    return litert.convert(make)


def masks_of(runner, picture):
    runner.set_tensor(runner.get_input_details()[0]["index"], picture)
    runner.invoke()
    return next(
        runner.get_tensor(detail["index"]) for detail in runner.get_output_details() if len(detail["shape"]) == 3
    )


def blobs(count, side, classes, seed):
    """Masks of smooth regions."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, classes))
    return ndimage.gaussian_filter(noise, (0, 4, 4, 0)).argmax(-1).astype(np.uint8)


def test_scores_are_those_of_scikit_learn():
    """Of several pictures with untold pixels, and of a class that none of them has."""
    task = TASKS.build(Spec("segment"), ClassLabels((*NAMES, "never"), (1, 1, 1, 1), 4))
    truth, found = blobs(70, 24, 3, 0), blobs(70, 24, 3, 1)
    found[:30] = truth[:30]
    truth[:, :5] = 255
    told = truth != 255
    ours, theirs = truth[told], found[told]
    scores = task.compute_metrics(truth, found)
    iou = metrics.jaccard_score(ours, theirs, average=None)
    assert scores["miou"] == pytest.approx(iou.mean())
    assert scores["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(ours, theirs))
    assert scores["mean_class_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(ours, theirs))
    assert scores["iou_weighted"] == pytest.approx(metrics.jaccard_score(ours, theirs, average="weighted"))
    assert np.array_equal(scores["confusion"], metrics.confusion_matrix(ours, theirs, labels=range(4)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(ours, theirs)
    for place, row in enumerate(list(scores["per_class"].values())[:3]):
        expected = (precision[place], recall[place], f1[place], support[place], iou[place])
        assert list(row.values()) == pytest.approx(expected)
    assert set(scores["per_class"]["never"].values()) == {0}
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    of_each = [metrics.jaccard_score(a[b], c[b], average="macro") for a, b, c in zip(truth, told, found, strict=True)]
    assert task.per_sample_score(truth, found) == pytest.approx(of_each)


def test_scores_of_the_best_and_the_worst():
    """The truth itself has 1 of everything, what is wrong everywhere 0; what is untold is never wrong."""
    task, truth = built(), blobs(3, 32, 3, 0)
    untold = truth.copy()
    untold[0] = 255
    best = task.compute_metrics(untold, truth)
    assert {value for value in best.values() if isinstance(value, float)} == {1.0}
    assert task.per_sample_score(untold, truth).tolist() == [1, 1, 1]
    worst = task.compute_metrics(truth, (truth + 1) % 3)
    assert worst["miou"] == worst["pixel_accuracy"] == 0
    assert not task.per_sample_score(truth, (truth + 1) % 3).any()


def test_boundary_f1_is_that_of_distances():
    """Csurka's score from distance transforms, picture by picture and class by class."""
    truth, found = blobs(4, 200, 3, 0), blobs(4, 200, 3, 1)
    found[:2] = np.roll(truth[:2], (2, 1), (1, 2))
    truth[:, :, :17] = 255
    limit = 0.0075 * np.hypot(200, 200)
    of_pictures = []
    for ours, theirs in zip(truth, np.where(truth == 255, 255, found), strict=True):
        values = []
        for place in range(3):
            lines = outline(ours, place), outline(theirs, place)
            if lines[0].any() or lines[1].any():
                precision, recall = near(lines[1], lines[0], limit), near(lines[0], lines[1], limit)
                values.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        of_pictures.append(np.mean(values))
    assert min(of_pictures) < 0.5
    assert built().compute_metrics(truth, found)["boundary_f1"] == pytest.approx(np.mean(of_pictures))


def outline(mask, place):
    """Pixels of a class beside one of another, by a loop."""
    found = np.zeros(mask.shape, bool)
    for y, x in np.argwhere(mask == place):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= y + down < mask.shape[0] and 0 <= x + right < mask.shape[1]:
                found[y, x] |= mask[y + down, x + right] not in (place, 255)
    return found


def near(line, other, limit):
    if not line.any() or not other.any():
        return 0.0
    return (ndimage.distance_transform_edt(~other)[line] <= limit).mean()


def test_a_prediction_names_what_is_in_the_picture():
    """The things, the largest first, and the share of the picture of each class; what is around them is none."""
    mask = np.zeros((10, 10), np.uint8)
    mask[:2], mask[2:5] = 1, 2
    record = built().format_prediction(mask)
    assert record["label"] == ["猫", "apfel"]
    assert record["score"] == pytest.approx([0.3, 0.2])
    assert record["scores"] == pytest.approx({"background": 0.5, "apfel": 0.2, "猫": 0.3})
    assert json.loads(json.dumps(record)) == record


def test_places():
    """What is read is laid as the picture lies, drawn in the colours of its classes, and examined."""
    places = built().localization
    assert places.levels == ("P3", "P4", "P5")
    mask = np.zeros((4, 8, 1), np.uint8)
    mask[:, 4:] = 2
    raw = tf.io.encode_png(mask)
    sample = places.read_annotations(raw, tf.constant([4, 8]))
    target = places.encode(sample, tf.constant([4, 8]), Letterbox(tf.constant([4.0, 4.0]), tf.constant([8.0, 0.0]), 32))
    assert target.shape == (32, 32)
    assert target.dtype == tf.uint8
    assert (target[:8].numpy() == 255).all()
    assert (target[8:24, :16].numpy() == 0).all()
    assert (target[8:24, 16:].numpy() == 2).all()
    assert places.check_annotations(raw.numpy()) == ("0\n2", "", ())
    pixels = np.full((32, 32, 3), 100, np.uint8)
    drawn = places.draw(pixels, target.numpy(), True)
    assert (drawn[:, :16] == 100).all()
    assert (drawn[8:24, 16:] != 100).any(-1).all()


def test_other_sides_are_refused():
    """Where logits would not fit the picture, before anything is trained."""
    places = built().localization
    mask = {"mask": tf.zeros((4, 4, 1), tf.uint8)}
    lay = Letterbox(tf.ones(2), tf.zeros(2), 60)
    with pytest.raises(UserError, match=r"cannot predict a mask .*: 7 logits along a side of 60 pixels\. .*32"):
        places.encode(mask, tf.constant([4, 4]), lay)
    with pytest.raises(UserError, match="cannot predict a mask"):
        built().loss(np.zeros((1, 64, 64), np.uint8), np.zeros((1, 7, 7, 3), np.float32))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"label_smoothing": 1}, r"label_smoothing of segment\(\) is out of range: 1\. Expected: 0 to below 1\."),
        ({"focal": -1}, r"focal of segment\(\) is out of range"),
        ({"dice": -1}, r"dice of segment\(\) is out of range"),
        ({"stride": 2}, r"stride of segment\(\) is out of range: 2\. Expected: 4, 8 or 16\."),
        ({"dropout": 1}, r"dropout of segment\(\) is out of range"),
        ({"neck": Spec("fpm")}, r"Unknown neck: fpm\. .*Did you mean fpn\?"),
        (
            {"neck": Spec("pan", (), {"dim": 0})},
            r"Options of pan\(\) are out of range: dim=0\. Expected: dim >= 1\.",
        ),
        ({"neck": Spec("bifpn", (), {"repeats": 0})}, r"Options of bifpn\(\) are out of range: repeats=0\. Expected: repeats >= 1\."),
        ({"decoder": "aspp"}, "Wrong value for decoder of task segment: 'aspp'. Expected: .*panoptic_fpn.*lraspp"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, reason):
    """In one line, those of the neck too, before there is a pyramid."""
    with pytest.raises(UserError, match=reason):
        built(**options)


def test_a_tower_without_a_pyramid_is_refused():
    """A vector of a picture says nothing of its pixels."""
    with pytest.raises(UserError, match=r"segment\(\) needs feature levels that the backbone lacks: P3, P4, P5"):
        built().head(Features(keras.Input((8,))))
