"""Geometry of boxes against numbers worked out by hand, and suppression against the greedy algorithm in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_finetune.ops import boxes

A, B, FAR, EMPTY = (0.0, 0, 4, 4), (2.0, 0, 6, 4), (6.0, 8, 8, 10), (1.0, 1, 1, 3)


def value(found):
    return np.asarray(found).tolist()


@pytest.mark.parametrize(
    ("first", "second", "iou", "giou", "diou"),
    [
        (A, A, 1.0, 1.0, 1.0),
        # 8 of 24; the hull of 6 x 4 is full; centres 2 apart, its diagonal squared 36 + 16.
        (A, B, 1 / 3, 1 / 3, 1 / 3 - 4 / 52),
        # Hull 8 x 10, of which 16 + 4 are filled; centres (2, 2) and (7, 9).
        (A, FAR, 0.0, -60 / 80, -(25 + 49) / 164),
        # A box without width inside: no area, the hull is A; centres (2, 2) and (1, 2), diagonal 32.
        (A, EMPTY, 0.0, 0.0, -1 / 32),
        (EMPTY, EMPTY, 0.0, 0.0, 0.0),
    ],
)
def test_overlap_by_hand(first, second, iou, giou, diou):
    """Areas, hulls and diagonals worked out on paper; neither box is the first one."""
    for function, expected in ((boxes.iou, iou), (boxes.giou, giou), (boxes.diou, diou)):
        for one, other in ((first, second), (second, first)):
            assert value(function(np.array(one, "f4"), np.array(other, "f4"))) == pytest.approx(expected, abs=1e-6)


def test_pairwise_compares_each_with_each():
    """A row for each of the first boxes, a column for each of the second."""
    first, second = np.array([[A, B, FAR]], "f4"), np.array([[A, EMPTY]], "f4")
    np.testing.assert_allclose(boxes.pairwise_iou(first, second), [[[1, 0], [1 / 3, 0], [0, 0]]], atol=1e-6)


def test_boxes_that_end_before_they_begin_have_no_area():
    """A network may say such boxes: nothing is negative or not a number, nor is a gradient."""
    crossed = tf.Variable([(4.0, 4, 0, 0), (3.0, 0, 1, 4)])
    with tf.GradientTape() as tape:
        found = [function(crossed, tf.constant([A, A])) for function in (boxes.iou, boxes.giou, boxes.diou)]
    assert value(found[0]) == [0, 0]
    assert np.isfinite(found).all()
    assert np.isfinite(tape.gradient(found, crossed)).all()


def test_grid_of_a_pyramid():
    """A picture of 64 pixels: 8 x 8 cells of 8, 4 x 4 of 16, 2 x 2 of 32."""
    found = boxes.make_grid(64 + 16 + 4, ("P3", "P4", "P5"))
    assert found.side == 64
    assert found.centers.shape == (84, 2)
    assert found.centers[[0, 1, 8, 63, 64, 83]].tolist() == [[4, 4], [12, 4], [4, 12], [60, 60], [8, 8], [48, 48]]
    assert found.strides[:, 0].tolist() == [8] * 64 + [16] * 16 + [32] * 4
    for side in range(8, 1300, 8):
        count = sum(math.ceil(side / step) ** 2 for step in (8, 16, 32))
        assert boxes.make_grid(count, ("P3", "P4", "P5")).side == side
    # A picture of 40 pixels has a second cell of 32, which begins in it.
    assert boxes.make_grid(25 + 9 + 4, ("P3", "P4", "P5")).centers[-1].tolist() == [48, 48]
    with pytest.raises(ValueError, match="no square picture of a multiple of 8 pixels has 85 cells"):
        boxes.make_grid(85, ("P3", "P4", "P5"))


def test_distances_and_boxes_belong_together():
    """What one makes of a box the other brings back, of a point outside of it too."""
    points, given = np.array([[3.0, 1], [9, 9]], "f4"), np.array([B, A], "f4")
    assert value(boxes.boxes_to_distances(points, given)) == [[1, 1, 3, 3], [9, 9, -5, -5]]
    assert value(boxes.distances_to_boxes(points, boxes.boxes_to_distances(points, given))) == given.tolist()


# ---- suppression


def overlap(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    size = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / max(sum(size) - width * height, 1e-9)


def greedy(given, classes, threshold):
    """As every text book has it: the best box stays, what overlaps it goes, and so on."""
    found = []
    for i in range(len(given)):
        if all(classes[i] != classes[j] or overlap(given[i], given[j]) <= threshold for j in found):
            found.append(i)
    return found


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 3), st.sampled_from([0.1, 0.3, 0.5, 0.7]))
@settings(max_examples=60, deadline=None)
def test_suppression_is_greedy(seed, count, classes, threshold):
    """On crowded random boxes, with long chains of overlaps."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (2, count, 2))
    given = np.concatenate([corner, corner + rng.uniform(1, 12, (2, count, 2))], -1).astype("f4")
    label = rng.integers(0, classes, (2, count))
    found = np.asarray(boxes.cluster_nms(given, label, threshold))
    for row in range(2):
        assert np.flatnonzero(found[row]).tolist() == greedy(given[row], label[row], threshold)


def test_a_chain_alternates():
    """Each box overlaps the next alone: every other one stays, and as many rounds are needed as there are boxes."""
    given = np.array([[(3.0 * i, 0, 3.0 * i + 5, 4) for i in range(41)]], "f4")
    assert np.flatnonzero(boxes.cluster_nms(given, np.zeros((1, 41)), 0.2)[0]).tolist() == list(range(0, 41, 2))


def test_detections_are_the_surest_of_each_class():
    """What overlaps goes within its class alone; what is unsure, and what there is not, is padding."""
    scores = np.array([[[0.9, 0.3], [0.8, 0.01], [0.2, 0.7], [0.04, 0.0]]], "f4")
    given = np.array([[A, (0, 0, 4, 5), B, FAR]], "f4")
    find = tf.function(
        lambda s, b: boxes.batched_nms(
            s, b, score_threshold=0.05, iou_threshold=0.5, max_detections=6, pre_nms_topk=100
        )
    )
    box, score, label = map(np.asarray, find(scores, given))
    assert score[0].tolist() == pytest.approx([0.9, 0.7, 0.3, 0.2, 0, 0])
    assert label[0].tolist() == [0, 1, 1, 0, -1, -1]
    assert box[0].tolist() == [[*A], [*B], [*A], [*B], [0] * 4, [0] * 4]
    few = boxes.batched_nms(scores, given, score_threshold=0.05, iou_threshold=0.5, max_detections=2, pre_nms_topk=3)
    assert np.asarray(few[1])[0].tolist() == pytest.approx([0.9, 0.7])
    wide = boxes.batched_nms(
        scores, given, score_threshold=0.05, iou_threshold=0.5, max_detections=20, pre_nms_topk=100
    )
    assert np.asarray(wide[2]).shape == (1, 20)
    assert np.asarray(wide[2])[0, 4:].tolist() == [-1] * 16


def test_detections_stand_in_a_graph_of_any_batch():
    """As a SavedModel has it: the size of the batch is open."""
    spec = [tf.TensorSpec([None, 30, 2]), tf.TensorSpec([None, 30, 4])]
    find = tf.function(
        lambda s, b: boxes.batched_nms(
            s, b, score_threshold=0.1, iou_threshold=0.4, max_detections=10, pre_nms_topk=40
        ),
        input_signature=spec,
    )
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        scores, corner = rng.uniform(size=(batch, 30, 2)).astype("f4"), rng.uniform(0, 9, (batch, 30, 2)).astype("f4")
        given = np.concatenate([corner, corner + 4], -1)
        for found, plain in zip(
            find(scores, given),
            boxes.batched_nms(
                scores, given, score_threshold=0.1, iou_threshold=0.4, max_detections=10, pre_nms_topk=40
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(found, plain)
