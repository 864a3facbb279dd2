"""Segmentation task: training, loss, scores, exported files and predictions."""

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
    """Return the inputs and head outputs of a small backbone with a pyramid."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    pyramid = {}
    for level in range(1, 6):
        x = keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
        pyramid[f"P{level}"] = x
    return inputs, task.head(Features(keras.layers.GlobalAveragePooling2D()(x), pyramid))


def squares(count, side=64):
    """Return noisy images with a red and a green square, and masks whose first column has no label."""
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
    """A few epochs learn to segment separable classes."""
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
    predicted = task.postprocess({name: np.asarray(x) for name, x in task.decode(model(pixels, training=True)).items()})
    assert predicted.shape == mask.shape
    assert predicted.dtype == np.uint8
    assert task.compute_metrics(mask, predicted)["miou"] > 0.75


def test_loss_by_hand():
    """By hand: cross-entropy of two labeled cells, and Dice of the classes that occur."""
    target = np.full((1, 16, 16), 255, np.uint8)
    logits = np.log(np.full((1, 4, 4, 3), 1 / 3, np.float32))
    # Two cells have labels: class 0, predicted with a probability of 0.5, and class 2, with 0.8.
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


def test_pixels_without_a_label_have_no_loss():
    """Pixels without a label have neither loss nor gradient, and each sample has its own loss."""
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
def test_decoded_masks_equal_upsampled_logits(spec):
    """The mask is the argmax of the upsampled logits, and scores are their softmax."""
    task = built(spec)
    stride = 4 if "stride=4" in spec else 8
    logits = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    outputs = {name: np.asarray(value) for name, value in task.decode({"logits": tf.constant(logits)}).items()}
    assert np.allclose(outputs["scores"], tf.nn.softmax(logits), atol=1e-6)
    upsampled = tf.image.resize(logits, (8 * stride, 8 * stride)).numpy()
    assert outputs["mask"].dtype == np.uint8
    assert np.array_equal(task.postprocess(outputs), upsampled.argmax(-1))


@pytest.mark.parametrize("spec", HEADS)
def test_files_predict_the_same_masks(spec, tmp_path):
    """Keras and TFLite files, in float and int8, predict the masks of the model."""
    task = built(spec)
    inputs, outputs = network(task)
    pixels, _ = squares(4)
    model = keras.Model(inputs, task.decode(outputs))
    model(pixels, training=True)  # moves normalization away from where it began
    expected = task.postprocess(model.predict(pixels, verbose=0))
    model.save(tmp_path / "model.keras")
    assert np.array_equal(
        task.postprocess(load_keras_model(tmp_path / "model.keras").predict(pixels, verbose=0)), expected
    )
    frozen = litert.freeze(lambda x: list(model(x, training=False).values()), [tf.TensorSpec((1, 64, 64, 3))])
    for quantize, min_agreement in (("none", 0.9999), ("int8", 0.9)):
        runner = litert.open_interpreter(converted(frozen, quantize, pixels), 1)
        predicted = np.concatenate([masks_of(runner, row[None]) for row in pixels])
        assert predicted.dtype == np.uint8
        assert (predicted == expected).mean() > min_agreement, quantize


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
    """Return random masks of smooth regions."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, classes))
    return ndimage.gaussian_filter(noise, (0, 4, 4, 0)).argmax(-1).astype(np.uint8)


def test_scores_equal_scikit_learn():
    """Scores equal those of scikit-learn, with pixels without a label and a class that does not occur."""
    task = TASKS.build(Spec("segment"), ClassLabels((*NAMES, "never"), (1, 1, 1, 1), 4))
    truth, predicted = blobs(70, 24, 3, 0), blobs(70, 24, 3, 1)
    predicted[:30] = truth[:30]
    truth[:, :5] = 255
    labeled = truth != 255
    labels, predictions = truth[labeled], predicted[labeled]
    scores = task.compute_metrics(truth, predicted)
    iou = metrics.jaccard_score(labels, predictions, average=None)
    assert scores["miou"] == pytest.approx(iou.mean())
    assert scores["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert scores["mean_class_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predictions))
    assert scores["iou_weighted"] == pytest.approx(metrics.jaccard_score(labels, predictions, average="weighted"))
    assert np.array_equal(scores["confusion"], metrics.confusion_matrix(labels, predictions, labels=range(4)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, predictions)
    for place, row in enumerate(list(scores["per_class"].values())[:3]):
        expected = (precision[place], recall[place], f1[place], support[place], iou[place])
        assert list(row.values()) == pytest.approx(expected)
    assert set(scores["per_class"]["never"].values()) == {0}
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    of_each = [
        metrics.jaccard_score(a[b], c[b], average="macro") for a, b, c in zip(truth, labeled, predicted, strict=True)
    ]
    assert task.per_sample_score(truth, predicted) == pytest.approx(of_each)


def test_scores_of_perfect_and_wrong_masks():
    """A perfect mask has scores of 1, and one that is wrong everywhere 0."""
    task, truth = built(), blobs(3, 32, 3, 0)
    partly_labeled = truth.copy()
    partly_labeled[0] = 255
    best = task.compute_metrics(partly_labeled, truth)
    assert {value for value in best.values() if isinstance(value, float)} == {1.0}
    assert task.per_sample_score(partly_labeled, truth).tolist() == [1, 1, 1]
    worst = task.compute_metrics(truth, (truth + 1) % 3)
    assert worst["miou"] == worst["pixel_accuracy"] == 0
    assert not task.per_sample_score(truth, (truth + 1) % 3).any()


def test_boundary_f1_by_distance_transform():
    """Boundary F1 equals Csurka's score from distance transforms."""
    truth, predicted = blobs(4, 200, 3, 0), blobs(4, 200, 3, 1)
    predicted[:2] = np.roll(truth[:2], (2, 1), (1, 2))
    truth[:, :, :17] = 255
    limit = 0.0075 * np.hypot(200, 200)
    of_pictures = []
    for mask, predicted_mask in zip(truth, np.where(truth == 255, 255, predicted), strict=True):
        values = []
        for label in range(3):
            lines = outline(mask, label), outline(predicted_mask, label)
            if lines[0].any() or lines[1].any():
                precision, recall = near(lines[1], lines[0], limit), near(lines[0], lines[1], limit)
                values.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        of_pictures.append(np.mean(values))
    assert min(of_pictures) < 0.5
    assert built().compute_metrics(truth, predicted)["boundary_f1"] == pytest.approx(np.mean(of_pictures))


def outline(mask, label):
    """Return the pixels of a class with a neighbor of another class."""
    edge = np.zeros(mask.shape, bool)
    for y, x in np.argwhere(mask == label):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= y + down < mask.shape[0] and 0 <= x + right < mask.shape[1]:
                edge[y, x] |= mask[y + down, x + right] not in (label, 255)
    return edge


def near(line, other, limit):
    if not line.any() or not other.any():
        return 0.0
    return (ndimage.distance_transform_edt(~other)[line] <= limit).mean()


def test_format_prediction():
    """The record has the classes by area without the background, and the area of each class."""
    mask = np.zeros((10, 10), np.uint8)
    mask[:2], mask[2:5] = 1, 2
    record = built().format_prediction(mask)
    assert record["label"] == ["猫", "apfel"]
    assert record["score"] == pytest.approx([0.3, 0.2])
    assert record["scores"] == pytest.approx({"background": 0.5, "apfel": 0.2, "猫": 0.3})
    assert json.loads(json.dumps(record)) == record


def test_localization_target():
    """Masks are read, letterboxed like the image, drawn and checked."""
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


def test_mismatched_sides_are_refused():
    """Logits that do not match the image size raise an error before training."""
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
        (
            {"neck": Spec("bifpn", (), {"repeats": 0})},
            r"Options of bifpn\(\) are out of range: repeats=0\. Expected: repeats >= 1\.",
        ),
        ({"decoder": "aspp"}, "Wrong value for decoder of task segment: 'aspp'. Expected: .*panoptic_fpn.*lraspp"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, reason):
    """An option out of range, also of the neck, raises an error before there is a pyramid."""
    with pytest.raises(UserError, match=reason):
        built(**options)


def test_a_backbone_without_a_pyramid_is_refused():
    """A backbone with pooled features only cannot segment."""
    with pytest.raises(UserError, match=r"segment\(\) needs feature levels that the backbone lacks: P3, P4, P5"):
        built().head(Features(keras.Input((8,))))
