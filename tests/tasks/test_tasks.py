"""Losses of classify and tag by hand; heads, targets and predictions."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from tfx_finetune.core.errors import UserError
from tfx_finetune.tasks.classify import classify
from tfx_finetune.tasks.head import compute_class_weights
from tfx_finetune.tasks.tag import tag
from tfx_finetune.types.components import Features
from tfx_finetune.types.task import ClassLabels

ABC = ClassLabels(("a", "b", "c"), (6, 3, 1), 10)
LN2 = math.log(2)


def names(count):
    return tuple(f"class {i}" for i in range(count))


# ---- losses and weights


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Probabilities 1/2, 1/4, 1/4, the first class is the truth.
        ({"label_smoothing": 0.0}, LN2),
        # Targets 0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3, and ln 4 = 2 ln 2.
        ({"label_smoothing": 0.2}, LN2 * (0.8 + 0.2 / 3 + 2 * 2 * 0.2 / 3)),
        # (1 - 1/2)^2 = 1/4.
        ({"label_smoothing": 0.0, "focal": 2.0}, LN2 / 4),
        # Class frequencies 0.6, 0.3, 0.1 turn 1/2, 1/4, 1/4 into 0.3 : 0.075 : 0.025.
        ({"label_smoothing": 0.0, "logit_adjust": 1.0}, -math.log(0.75)),
        # The other classes count with (1 - 1/4)^2 = 9/16.
        ({"label_smoothing": 0.2, "focal": 2.0}, LN2 * ((0.8 + 0.2 / 3) / 4 + 2 * 2 * 0.2 / 3 * 9 / 16)),
    ],
)
def test_loss_of_classify(options, expected):
    """Softmax cross-entropy, smoothed (arXiv 1512.00567) and focal (arXiv 1708.02002)."""
    loss = classify(ABC, **options).loss
    assert float(loss(np.array([[1.0, 0, 0]]), np.log([[0.5, 0.25, 0.25]]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Probabilities 0.8 and 0.25, the truth is 1 and 0.
        ({}, -(math.log(0.8) + math.log(0.75)) / 2),
        # Targets 0.9 and 0.1.
        (
            {"label_smoothing": 0.2},
            -(0.9 * math.log(0.8) + 0.1 * math.log(0.2) + 0.1 * math.log(0.25) + 0.9 * math.log(0.75)) / 2,
        ),
        # Factors (1 - 0.8)^3 and (1 - 0.75)^3.
        ({"focal": 3.0}, -(0.008 * math.log(0.8) + 0.015625 * math.log(0.75)) / 2),
    ],
)
def test_loss_of_tag(options, expected):
    """The loss is the mean binary cross-entropy of the classes; logits are ln(p / (1 - p))."""
    loss = tag(ClassLabels(("a", "b"), (1, 1), 2), **options).loss
    assert float(loss(np.array([[1.0, 0]]), np.array([[math.log(4), -math.log(3)]]))) == pytest.approx(
        expected, rel=1e-5
    )


@given(st.lists(st.integers(1, 500), min_size=2, max_size=20))
def test_balanced_weights_equal_scikit_learn(counts):
    """Weights equal compute_class_weight('balanced') on the training labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    weights = compute_class_weights(ClassLabels(names(len(counts)), tuple(counts), sum(counts)), "balanced")
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_a_class_without_training_samples_has_a_weight():
    """A class without samples does not change the weights of the others: 10 / (3 * 6) and 10 / (3 * 4)."""
    weights = compute_class_weights(ClassLabels(("a", "b", "c"), (6, 4, 0), 10), "balanced")
    np.testing.assert_allclose(weights, [10 / 18, 10 / 12, 10 / 3], rtol=1e-6)
    assert compute_class_weights(ABC, "none").tolist() == [1, 1, 1]


def test_weight_of_several_tags_is_their_mean():
    """The weights of 10 labels in 3 classes are 10 / (3 * 6) and 10 / (3 * 1); without a tag 1."""
    weigh = tag(ABC, class_weight="balanced").weight
    assert float(weigh(tf.constant([1.0, 0, 1]))) == pytest.approx((10 / 18 + 10 / 3) / 2)
    assert float(weigh(tf.constant([0.0, 0, 0]))) == 1.0


@pytest.mark.parametrize("make", [classify, tag])
def test_keras_divides_the_loss_by_the_sum_of_weights(make):
    """Keras computes sum(w * loss) / sum(w), not sum(w * loss) / n."""
    task = make(ABC, class_weight="balanced", init="glorot", dropout=0.0)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, task.head(Features(inputs))["logits"])
    model.compile("sgd", task.loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(8, 5)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0, 1, 1, 2]]
    weight = np.array([task.weight(tf.constant(row)).numpy() for row in target])
    sample_losses = np.array(
        [float(task.loss(t[None], p[None])) for t, p in zip(target, model(x).numpy(), strict=True)]
    )
    loss = float(model.test_on_batch(x, target, sample_weight=weight))
    assert loss == pytest.approx((sample_losses * weight).sum() / weight.sum(), rel=1e-5)
    assert loss != pytest.approx((sample_losses * weight).mean(), rel=1e-2)


# ---- heads


def dense(task, dim=400):
    inputs = keras.Input((dim,))
    return keras.Model(inputs, task.head(Features(inputs))["logits"])


@pytest.mark.parametrize("make", [classify, tag])
def test_initialization_of_the_head(make):
    """Glorot and Bengio 2010: uniform within sqrt(6 / (in + out)); He et al. 2015: deviation sqrt(2 / in)."""
    keras.utils.set_random_seed(0)
    wide = ClassLabels(names(100), (1,) * 100, 100)
    kernel, bias = dense(make(wide, init="glorot")).get_weights()
    limit = math.sqrt(6 / 500)
    assert abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)
    kernel, _ = dense(make(wide, init="he")).get_weights()
    assert kernel.std() == pytest.approx(math.sqrt(2 / 400), rel=0.03)
    zero, none = dense(make(wide, init="zeros")).get_weights()
    assert not bias.any()
    assert not zero.any()
    assert not none.any()


def test_prior_starts_from_the_frequencies():
    """The first predictions are the class frequencies; a class without samples counts as half a sample."""
    task = classify(ABC, init="prior")
    scores = task.decode({"logits": dense(task)(np.ones((1, 400)))})["scores"]
    np.testing.assert_allclose(scores, [[0.6, 0.3, 0.1]], rtol=1e-5)
    task = tag(ClassLabels(("a", "b", "c"), (6, 5, 0), 10), init="prior")
    scores = task.decode({"logits": dense(task)(np.ones((1, 400)))})["scores"]
    np.testing.assert_allclose(scores, [[0.6, 0.5, 0.01]], rtol=1e-5)
    _, bias = dense(classify(ClassLabels(("a", "b"), (10, 0), 10), init="prior")).get_weights()
    np.testing.assert_allclose(bias, [0, math.log(0.05)], rtol=1e-5)


def test_dropout_in_training_only():
    """Each of 400 features is dropped with probability 0.3, and the others are scaled."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((400,))
    task = classify(ABC, dropout=0.3, init="glorot")
    model = keras.Model(inputs, task.head(Features(inputs))["logits"])
    dropped = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)).output
    features = keras.Model(inputs, dropped)(np.ones((50, 400)), training=True).numpy()
    assert (features == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert features.max() == pytest.approx(1 / 0.7)
    assert np.array_equal(model(np.ones((2, 400)), training=False)[0], model(np.ones((2, 400)), training=False)[1])


@pytest.mark.parametrize("make", [classify, tag])
def test_a_hidden_layer_can_learn_xor(make):
    """Weights by hand compute exclusive or: relu(x + y) - 2 relu(x + y - 1)."""
    model = dense(make(ClassLabels(("a",), (1,), 1), hidden_units=2), dim=2)
    model.set_weights([np.ones((2, 2)), np.array([0, -1]), np.array([[1], [-2]]), np.zeros(1)])
    logits = model(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), training=False).numpy()
    np.testing.assert_allclose(logits[:, 0], [0, 1, 1, 0], atol=1e-6)
    with pytest.raises(
        UserError, match=r"hidden_units of (classify|tag)\(\) is out of range: -1\. Expected: 0 or more\."
    ):
        make(ABC, hidden_units=-1)


# ---- targets and predictions


def test_encode_of_several_tags_and_none():
    """Labels are separated by line breaks."""
    encode = tag(ABC).encode
    assert encode(tf.constant("c\na")).numpy().tolist() == [1, 0, 1]
    assert encode(tf.constant("")).numpy().tolist() == [0, 0, 0]
    assert encode(tf.constant("b")).numpy().tolist() == [0, 1, 0]


def test_predicted_tags_reach_the_threshold():
    """A score equal to the threshold counts, and labels are in the order of the classes."""
    scores = np.array([0.5, 0.25, 0.75])
    assert tag(ABC).format_prediction(scores)["label"] == ["a", "c"]
    assert tag(ABC, threshold=0.6).format_prediction(scores) | {"scores": 0} == {
        "label": ["c"],
        "score": [0.75],
        "scores": 0,
    }
    assert tag(ABC).format_prediction(np.zeros(3))["label"] == []


def test_classify_predicts_the_first_of_equal_scores():
    """The predicted class is that of argmax."""
    assert classify(ABC).format_prediction(np.array([0.2, 0.4, 0.4]))["label"] == "b"


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_the_progress_metric_of_tag_uses_the_threshold(threshold):
    """A score of 0.6 is present at 0.2 and absent at 0.9."""
    metric = tag(ABC, threshold=threshold).make_metrics()[0]
    metric.update_state([[1.0, 1, 1]], [[math.log(0.6 / 0.4)] * 3])
    assert float(metric.result()) == (threshold == 0.2)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -3.0])
def test_a_threshold_out_of_range_is_refused(threshold):
    """A threshold of 0 or 1 would predict all classes or none."""
    with pytest.raises(UserError, match=r"threshold of tag\(\) is out of range"):
        tag(ABC, threshold=threshold)
