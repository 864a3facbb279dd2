"""Assignment of anchor points, and the detection loss by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.test_detect import LABELS, PLACES, RNG, logits, rows
from tfx_finetune.tasks import detection_loss
from tfx_finetune.tasks.detect import detect

# ---- which places learn what


def learned(target, sure, **options):
    grid = detection_loss.boxes.make_grid(PLACES, ("P3", "P4", "P5"))
    head_logits = logits(*sure)
    scores = 1 / (1 + np.exp(-head_logits[..., :-4]))
    pred_boxes = detection_loss.boxes.distances_to_boxes(grid.centers, head_logits[..., -4:] * grid.strides)
    return detection_loss.assign(target, scores, pred_boxes, grid, detection_loss.TaskAlignedAssigner(**options))


def test_the_best_aligned_points_are_assigned():
    """Point 0 predicts the box exactly, with s * u^6 = 0.5; point 1 half of it, with 0.9 * 2^-6; point 2 is outside."""
    sure = [(0, 1, 0.0, (0.5, 0.5, 1.5, 0.5)), (1, 1, math.log(9), (0.5,) * 4), (2, 1, 9.0, (2.5, 0.5, -0.5, 0.5))]
    result = learned(rows((0, 0, 16, 8, 1, 1)), sure)
    alignment = np.asarray(result.alignment)[0]
    assert alignment[0] == pytest.approx(1.0)
    assert alignment[1] == pytest.approx(0.9 / 64 / 0.5)
    assert alignment[2] == 0
    assert np.asarray(result.target_scores)[0, :2].tolist() == pytest.approx(
        np.array([[0, alignment[0], 0], [0, alignment[1], 0]])
    )
    assert np.asarray(result.target_boxes)[0, :2].tolist() == [[0, 0, 16, 8]] * 2
    single_alignment = np.asarray(learned(rows((0, 0, 16, 8, 1, 1)), sure, topk=1).alignment)[0]
    assert single_alignment[0] == pytest.approx(1.0)
    assert np.flatnonzero(single_alignment).tolist() == [0]


def test_alignment_is_the_iou_of_the_best_point():
    """If the best prediction covers half of the box, its alignment is 0.5."""
    result = learned(rows((0, 0, 16, 8, 2, 1)), [(1, 2, 0.0, (0.5,) * 4)])
    assert np.asarray(result.alignment)[0, 1] == pytest.approx(0.5)


def test_a_point_in_two_objects_gets_the_one_with_the_highest_iou():
    """Point 0 gets the small object, and another point gets the large one."""
    sure = [(0, 0, 0.0, (0.5,) * 4), (9, 0, 0.0, (1.5,) * 4)]
    result = learned(rows((0, 0, 8, 8, 0, 1), (0, 0, 24, 24, 0, 1)), sure)
    assert np.asarray(result.target_boxes)[0, [0, 9]].tolist() == [[0, 0, 8, 8], [0, 0, 24, 24]]
    assert np.asarray(result.alignment)[0, [0, 9]].tolist() == pytest.approx([1, 1])


def test_a_small_object_is_assigned_to_its_cell():
    """A box of 2 x 2 pixels without a cell center is assigned to the first cell of each level."""
    predictions = [(place, 0, 0.0, (2.0,) * 4) for place in range(PLACES)]
    result = learned(rows((0, 0, 2, 2, 0, 1)), predictions)
    assert np.flatnonzero(np.asarray(result.alignment)[0]).tolist() == [0, 64, 80]


def test_crowds_and_padding_are_not_assigned():
    """Points inside a crowd are ignored; padding rows have no points."""
    sure = [(place, 0, 3.0, (2.0,) * 4) for place in range(PLACES)]
    result = learned(rows((0, 0, 16, 8, 1, 2)), sure)
    assert not np.asarray(result.alignment).any()
    assert np.flatnonzero(np.asarray(result.ignore_mask)[0]).tolist() == [0, 1, 64]
    empty_result = learned(rows(), sure)
    assert not np.asarray(empty_result.alignment).any()
    assert not np.asarray(empty_result.ignore_mask).any()


@pytest.mark.parametrize("count", [8, 9, 40])
def test_padding_rows_do_not_change_the_result(count):
    """The assignment is the same with and without padding rows."""
    corner = RNG.uniform(0, 40, (count, 2))
    objects = [(*low, *(low + RNG.uniform(4, 24, 2)), RNG.integers(0, 3), RNG.integers(1, 3)) for low in corner]
    sure = [(place, place % 3, RNG.normal(), RNG.uniform(0, 3, 4)) for place in range(PLACES)]
    plain, roomy = learned(rows(*objects, most=count), sure), learned(rows(*objects, most=100), sure)
    assert np.count_nonzero(plain.alignment) > 10
    for one, other in zip(plain, roomy, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# ---- the loss


def loss(target, head_logits, **options):
    return np.asarray(detect(LABELS, **options).loss.call(target, head_logits))


def test_loss_by_hand():
    """By hand: one point predicts its box exactly with p = 0.8, one is wrong with p = 0.6, all others are 0.

    |1 - 0.8|^2 * -ln 0.8 + 0.6^2 * -ln 0.4. If the point predicts half of the box, GIoU and target are 0.5:
    |0.5 - 0.8|^2 * -(ln 0.8 + ln 0.2) / 2 + 2 * 0.5 * (1 - 0.5).
    """
    target = rows((0, 0, 16, 8, 1, 1))
    wrong = (40, 2, math.log(1.5), (1.0,) * 4)
    exact = logits((0, 1, math.log(4), (0.5, 0.5, 1.5, 0.5)), wrong)
    expected = -(0.04 * math.log(0.8) + 0.36 * math.log(0.4))
    assert loss(target, exact) == pytest.approx(expected, rel=1e-4)
    half = logits((1, 1, math.log(4), (0.5,) * 4), wrong)
    expected = -0.09 * (math.log(0.8) + math.log(0.2)) / 2 - 0.36 * math.log(0.4) + 2 * 0.5 * (1 - 0.5)
    assert loss(target, half) == pytest.approx(expected, rel=1e-4)
    assert loss(target, half, box_weight=0.0) == pytest.approx(expected - 0.5, rel=1e-4)
    # The centers of the boxes are 4 apart; the enclosing box is 16 x 8.
    assert loss(target, half, box_loss="diou") == pytest.approx(expected + 16 / (256 + 64), rel=1e-4)


def test_crowds_are_not_background():
    """A prediction inside a crowd has no loss, unless it is assigned to an object."""
    head_logits = logits((0, 1, 2.0, (0.5, 0.5, 1.5, 0.5)))
    assert loss(rows(), head_logits) > 1
    assert loss(rows((0, 0, 32, 32, 0, 2)), head_logits) == pytest.approx(0, abs=1e-6)
    both = loss(rows((0, 0, 32, 32, 0, 2), (0, 0, 16, 8, 1, 1)), head_logits)
    assert both == pytest.approx(loss(rows((0, 0, 16, 8, 1, 1)), head_logits), rel=1e-4)


def test_every_object_of_a_batch_has_the_same_weight():
    """The loss is divided by the mean number of assigned objects per image, 1.5."""
    place = (0.5, 0.5, 1.5, 0.5)
    target = np.concatenate([rows((0, 0, 16, 8, 1, 1)), rows((0, 0, 16, 8, 1, 1), (16, 0, 32, 8, 1, 1))])
    head_logits = np.concatenate([logits((0, 1, 0.0, place)), logits((0, 1, 0.0, place), (2, 1, 0.0, place))])
    one, two = loss(target, head_logits)
    assert two == pytest.approx(2 * one, rel=1e-4)
    assert one == pytest.approx(0.25 * math.log(2) / 1.5, rel=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_loss_and_gradients_are_finite(spread):
    """Loss and gradients are finite for any logits, with crowds, empty boxes and no objects."""
    task = detect(LABELS)
    target = np.concatenate(
        [
            rows(),
            rows((0, 0, 16, 8, 1, 1), (3, 3, 3, 9, 0, 1), (0, 0, 64, 64, 2, 2)),
            rows(*[(5, 5, 5, 5, 0, 1)] * 5),
        ]
    )
    head_logits = tf.Variable(RNG.normal(size=(3, PLACES, 7)).astype("f4") * spread)
    with tf.GradientTape() as tape:
        value = task.loss(tf.constant(target), head_logits)
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, head_logits)).all()
