"""Box operations against values computed by hand, and suppression against the greedy algorithm in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_finetune.ops import boxes

A, B, FAR, EMPTY = (0.0, 0, 4, 4), (2.0, 0, 6, 4), (6.0, 8, 8, 10), (1.0, 1, 1, 3)


def to_list(values):
    return np.asarray(values).tolist()


@pytest.mark.parametrize(
    ("first", "second", "iou", "giou", "diou"),
    [
        (A, A, 1.0, 1.0, 1.0),
        # 8 of 24; the enclosing box of 6 x 4 is covered; the centers are 2 apart, its squared diagonal is 36 + 16.
        (A, B, 1 / 3, 1 / 3, 1 / 3 - 4 / 52),
        # The enclosing box is 8 x 10, of which 16 + 4 are covered; the centers are (2, 2) and (7, 9).
        (A, FAR, 0.0, -60 / 80, -(25 + 49) / 164),
        # A box without width inside A has no area; the centers are (2, 2) and (1, 2), the squared diagonal is 32.
        (A, EMPTY, 0.0, 0.0, -1 / 32),
        (EMPTY, EMPTY, 0.0, 0.0, 0.0),
    ],
)
def test_overlaps_equal_values_by_hand(first, second, iou, giou, diou):
    """IoU, GIoU and DIoU are symmetric and equal the values computed by hand."""
    for function, expected in ((boxes.iou, iou), (boxes.giou, giou), (boxes.diou, diou)):
        for a, b in ((first, second), (second, first)):
            assert to_list(function(np.array(a, "f4"), np.array(b, "f4"))) == pytest.approx(expected, abs=1e-6)


def test_pairwise_iou_compares_every_pair():
    """The result has a row per first box and a column per second box."""
    first, second = np.array([[A, B, FAR]], "f4"), np.array([[A, EMPTY]], "f4")
    np.testing.assert_allclose(boxes.pairwise_iou(first, second), [[[1, 0], [1 / 3, 0], [0, 0]]], atol=1e-6)


def test_boxes_with_swapped_corners_have_no_area():
    """A network may predict such boxes: overlaps and gradients are finite, and the IoU is 0."""
    crossed = tf.Variable([(4.0, 4, 0, 0), (3.0, 0, 1, 4)])
    with tf.GradientTape() as tape:
        overlaps = [function(crossed, tf.constant([A, A])) for function in (boxes.iou, boxes.giou, boxes.diou)]
    assert to_list(overlaps[0]) == [0, 0]
    assert np.isfinite(overlaps).all()
    assert np.isfinite(tape.gradient(overlaps, crossed)).all()


def test_grid_of_a_pyramid():
    """An image of 64 pixels has 8 x 8 cells of stride 8, 4 x 4 of stride 16 and 2 x 2 of stride 32."""
    grid = boxes.make_grid(64 + 16 + 4, ("P3", "P4", "P5"))
    assert grid.side == 64
    assert grid.centers.shape == (84, 2)
    assert grid.centers[[0, 1, 8, 63, 64, 83]].tolist() == [[4, 4], [12, 4], [4, 12], [60, 60], [8, 8], [48, 48]]
    assert grid.strides[:, 0].tolist() == [8] * 64 + [16] * 16 + [32] * 4
    for side in range(8, 1300, 8):
        count = sum(math.ceil(side / step) ** 2 for step in (8, 16, 32))
        assert boxes.make_grid(count, ("P3", "P4", "P5")).side == side
    # An image of 40 pixels has a second cell of stride 32 that starts inside it.
    assert boxes.make_grid(25 + 9 + 4, ("P3", "P4", "P5")).centers[-1].tolist() == [48, 48]
    with pytest.raises(ValueError, match="no square image of a multiple of 8 pixels has 85 cells"):
        boxes.make_grid(85, ("P3", "P4", "P5"))


def test_distances_are_the_inverse_of_boxes():
    """Boxes survive the conversion to distances and back, also for a point outside the box."""
    points, corners = np.array([[3.0, 1], [9, 9]], "f4"), np.array([B, A], "f4")
    assert to_list(boxes.boxes_to_distances(points, corners)) == [[1, 1, 3, 3], [9, 9, -5, -5]]
    assert to_list(boxes.distances_to_boxes(points, boxes.boxes_to_distances(points, corners))) == corners.tolist()


# ---- suppression


def reference_iou(first, second):
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / max(sum(areas) - width * height, 1e-9)


def greedy_nms(candidates, classes, threshold):
    """Textbook algorithm: the best box stays, boxes that overlap it are removed, and so on."""
    selection = []
    for i in range(len(candidates)):
        if all(classes[i] != classes[j] or reference_iou(candidates[i], candidates[j]) <= threshold for j in selection):
            selection.append(i)
    return selection


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 3), st.sampled_from([0.1, 0.3, 0.5, 0.7]))
@settings(max_examples=60, deadline=None)
def test_cluster_nms_equals_greedy_nms(seed, count, classes, threshold):
    """Cluster-NMS equals the greedy algorithm on crowded random boxes with long chains of overlaps."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (2, count, 2))
    candidates = np.concatenate([corner, corner + rng.uniform(1, 12, (2, count, 2))], -1).astype("f4")
    label = rng.integers(0, classes, (2, count))
    keep = np.asarray(boxes.cluster_nms(candidates, label, threshold))
    for row in range(2):
        assert np.flatnonzero(keep[row]).tolist() == greedy_nms(candidates[row], label[row], threshold)


def test_every_other_box_of_a_chain_is_suppressed():
    """If each box overlaps only the next one, every other box stays; this takes as many iterations as boxes."""
    chain = np.array([[(3.0 * i, 0, 3.0 * i + 5, 4) for i in range(41)]], "f4")
    assert np.flatnonzero(boxes.cluster_nms(chain, np.zeros((1, 41)), 0.2)[0]).tolist() == list(range(0, 41, 2))


def test_batched_nms_selects_the_highest_scores_of_each_class():
    """Only boxes of the same class suppress each other; low scores and missing objects become padding."""
    scores = np.array([[[0.9, 0.3], [0.8, 0.01], [0.2, 0.7], [0.04, 0.0]]], "f4")
    candidates = np.array([[A, (0, 0, 4, 5), B, FAR]], "f4")
    find = tf.function(
        lambda s, b: boxes.batched_nms(
            s, b, score_threshold=0.05, iou_threshold=0.5, max_detections=6, pre_nms_topk=100
        )
    )
    box, score, label = map(np.asarray, find(scores, candidates))
    assert score[0].tolist() == pytest.approx([0.9, 0.7, 0.3, 0.2, 0, 0])
    assert label[0].tolist() == [0, 1, 1, 0, -1, -1]
    assert box[0].tolist() == [[*A], [*B], [*A], [*B], [0] * 4, [0] * 4]
    few = boxes.batched_nms(
        scores, candidates, score_threshold=0.05, iou_threshold=0.5, max_detections=2, pre_nms_topk=3
    )
    assert np.asarray(few[1])[0].tolist() == pytest.approx([0.9, 0.7])
    wide = boxes.batched_nms(
        scores, candidates, score_threshold=0.05, iou_threshold=0.5, max_detections=20, pre_nms_topk=100
    )
    assert np.asarray(wide[2]).shape == (1, 20)
    assert np.asarray(wide[2])[0, 4:].tolist() == [-1] * 16


def test_keep_first_objects_pads_the_others_of_each_image():
    """The first image keeps one of its objects, the second all."""
    box = np.arange(1, 17, dtype="f4").reshape(2, 2, 4)
    kept = boxes.keep_first_objects(box, np.array([[0.9, 0.8]] * 2), np.array([[3, 4]] * 2), np.array([1, 5]))
    box_out, score, label = map(np.asarray, kept)
    assert box_out.tolist() == [[[1, 2, 3, 4], [0] * 4], [[9, 10, 11, 12], [13, 14, 15, 16]]]
    assert score[0].tolist() == pytest.approx([0.9, 0]) and score[1].tolist() == pytest.approx([0.9, 0.8])
    assert label.tolist() == [[3, -1], [3, 4]]


def test_batched_nms_runs_in_a_graph_of_variable_batch_size():
    """The graph of a SavedModel, whose batch size is not known, gives the eager result."""
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
        candidates = np.concatenate([corner, corner + 4], -1)
        for from_graph, eager in zip(
            find(scores, candidates),
            boxes.batched_nms(
                scores, candidates, score_threshold=0.1, iou_threshold=0.4, max_detections=10, pre_nms_topk=40
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(from_graph, eager)
